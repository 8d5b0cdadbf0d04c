// A client that oapi-codegen generated from openapi.json: create a topic, produce, fetch, poll, and meet a refusal.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"example.org/clients/millrace"
)

func main() {
	ctx := context.Background()
	client, err := millrace.NewClientWithResponses(os.Args[1])
	check(err, nil)

	partitions := int64(2)
	created, err := client.CreateTopicWithResponse(ctx, "orders-go", millrace.TopicChange{Partitions: &partitions})
	check(err, created.ApplicationproblemJSONDefault)
	fmt.Println("created", created.JSON201.Name, "with", created.JSON201.Partitions, "partitions")

	alice, bob, partition := "alice", "bob", int64(0)
	key := "order-1"
	produced, err := client.ProduceWithResponse(ctx, "orders-go", &millrace.ProduceParams{IdempotencyKey: &key},
		millrace.ProduceBody{Records: &[]millrace.RecordIn{
			{Key: &alice, Partition: &partition, Value: map[string]any{"item": "book"}},
			{Key: &bob, Partition: &partition, Value: map[string]any{"item": "lamp"}},
		}})
	check(err, produced.ApplicationproblemJSONDefault)
	for _, place := range *produced.JSON201.Offsets {
		fmt.Println("appended at", place.Partition, place.Offset)
	}

	offset := "earliest"
	page, err := client.FetchPartitionWithResponse(ctx, "orders-go", 0, &millrace.FetchPartitionParams{Offset: &offset})
	check(err, page.ApplicationproblemJSONDefault)
	for _, record := range page.JSON200.Records {
		fmt.Println("fetched", record.Offset, *record.Key, record.Value.(map[string]any)["item"])
	}

	topics, autoCommit := []string{"orders-go"}, true
	polled, err := client.PollWithResponse(ctx, "billing-go", "member-1",
		millrace.PollBody{Topics: &topics, AutoCommit: &autoCommit})
	check(err, polled.ApplicationproblemJSONDefault)
	for _, record := range polled.JSON200.Records {
		fmt.Println("polled", record.Topic, record.Offset, record.Value.(map[string]any)["item"])
	}

	missing, err := client.GetTopicWithResponse(ctx, "no-such-topic")
	check(err, missing.ApplicationproblemJSONDefault)
	if problem := missing.ApplicationproblemJSON404; problem.Code == millrace.UNKNOWNTOPICORPARTITION {
		fmt.Println("refused", problem.Code, problem.Status)
	}
}

// check ends the program on an error of the network, or on a problem that the operation does not list.
func check(err error, problem *millrace.Problem) {
	if err != nil {
		log.Fatal(err)
	}
	if problem != nil {
		log.Fatal(problem.Code, ": ", problem.Detail)
	}
}
