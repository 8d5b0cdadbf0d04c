"""All errors for clients: each class is one problem type.

`code` is Kafka's symbolic name if Kafka has one. `cause` and `cure` are the text of the problem's page.
`app/api/http/problems.py` has the HTTP status of each class.
"""
