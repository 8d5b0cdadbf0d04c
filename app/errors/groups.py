"""What consumer groups and their offsets refuse."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class InvalidGroupId(BrokerError):
    code = "INVALID_GROUP_ID"
    title = "Invalid group name"
    cause = "The name is no name of a group: 1 to 249 characters of a-z A-Z 0-9 . _ - and not '.' or '..'."
    cure = "Choose another name."


class GroupIdNotFound(BrokerError):
    code = "GROUP_ID_NOT_FOUND"
    title = "Group not found"
    cause = "There is no consumer group of this name: nobody joined or committed, or it was deleted."
    cure = "A join, a poll with topics or a commit creates it."


class UnknownMemberId(BrokerError):
    code = "UNKNOWN_MEMBER_ID"
    title = "Unknown member"
    cause = "The group has no member of this name: it left, it was silent for longer than its session, or never joined."
    cure = "Drop all partitions and join again."


class FencedMemberEpoch(BrokerError):
    code = "FENCED_MEMBER_EPOCH"
    title = "Member epoch is fenced"
    cause = "The member_epoch is not the member's: somebody joined again under this name, or answers were missed."
    cure = "Drop all partitions and join again. Nothing of the request was done."


class StaleMemberEpoch(BrokerError):
    code = "STALE_MEMBER_EPOCH"
    title = "Member epoch is stale"
    cause = "A commit names partitions that the member does not hold, or held at an earlier epoch only."
    cure = "Beat to learn the assignment, drop what is no longer in it, and commit the rest."


class FencedInstanceId(BrokerError):
    code = "FENCED_INSTANCE_ID"
    title = "Static member is fenced"
    cause = "Another member has joined the group with the same instance_id and has taken this one's place."
    cure = "Stop this member, or give each its own instance_id."


class GroupMaxSizeReached(BrokerError):
    code = "GROUP_MAX_SIZE_REACHED"
    title = "Group is full"
    cause = "The group has as many members, or the server as many groups, as its settings allow."
    cure = "Wait until a member leaves, delete groups no longer used, or raise MILLRACE_MAX_GROUP_MEMBERS or MILLRACE_MAX_GROUPS."


class NonEmptyGroup(BrokerError):
    code = "NON_EMPTY_GROUP"
    title = "Group has members"
    cause = "Offsets can be set from outside, and a group deleted, only while it has no members."
    cure = "Stop the consumers, or wait until their sessions are over."


class OffsetConflict(BrokerError):
    code = "OFFSET_CONFLICT"
    title = "Committed offset is elsewhere"
    cause = "A commit's from_offset is not where the committed offset stands: the records were committed already."
    cure = "Go on from committed_offset; a transaction that was repeated has been done. Nothing was written."


class CommitAboveLogEnd(BrokerError):
    code = "OFFSET_OUT_OF_RANGE"
    title = "Offset above the log's end"
    cause = "A commit is above log_end_offset: nothing was read there."
    cure = "Commit the offset after the last record processed, at most log_end_offset."


class OffsetMetadataTooLarge(BrokerError):
    code = "OFFSET_METADATA_TOO_LARGE"
    title = "Offset metadata too large"
    cause = "The metadata of a commit is larger than 4,096 bytes."
    cure = "Keep a reference there, and the data elsewhere."


class NoOffsetForPartition(BrokerError):
    code = "NO_OFFSET_FOR_PARTITION"
    title = "No offset to go on from"
    cause = "auto_offset_reset is none, and a partition has no committed offset, or retention has removed it."
    cure = (
        "Reset the group's offsets with POST /v1/groups/{group}/offsets/reset, or join with another auto_offset_reset."
    )
