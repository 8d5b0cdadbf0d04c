"""Errors of consumer groups and their offsets."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class InvalidGroupId(BrokerError):
    code = "INVALID_GROUP_ID"
    title = "Invalid group name"
    cause = "The group's name is not 1 to 249 characters of a-z A-Z 0-9 . _ -, or it is '.' or '..'."
    cure = "Choose a name of these characters."


class GroupIdNotFound(BrokerError):
    code = "GROUP_ID_NOT_FOUND"
    title = "Group not found"
    cause = "The consumer group does not exist: no member joined, no offset was committed, or it was deleted."
    cure = "Join the group, poll with topics or commit an offset: each creates the group."


class UnknownMemberId(BrokerError):
    code = "UNKNOWN_MEMBER_ID"
    title = "Unknown member"
    cause = "The group has no member with this member_id: it left, its session expired, or it never joined."
    cure = "Stop processing all partitions and join again."


class FencedMemberEpoch(BrokerError):
    code = "FENCED_MEMBER_EPOCH"
    title = "Member epoch is fenced"
    cause = "The member_epoch is not current: another process joined with this member_id, or an answer was lost."
    cure = "Stop processing all partitions and join again. The request had no effect."


class StaleMemberEpoch(BrokerError):
    code = "STALE_MEMBER_EPOCH"
    title = "Member epoch is stale"
    cause = "The commit contains partitions that are not assigned to the member at this member_epoch."
    cure = "Send a heartbeat to get the assignment, drop the partitions that left it, and commit the others."


class FencedInstanceId(BrokerError):
    code = "FENCED_INSTANCE_ID"
    title = "Static member is fenced"
    cause = "Another member joined the group with the same instance_id and replaced this member."
    cure = "Stop this member, or give each member its own instance_id."


class GroupMaxSizeReached(BrokerError):
    code = "GROUP_MAX_SIZE_REACHED"
    title = "Group is full"
    cause = "The group has the maximum number of members, or the server the maximum number of groups."
    cure = (
        "Wait until a member leaves, delete unused groups, or raise MILLRACE_MAX_GROUP_MEMBERS or MILLRACE_MAX_GROUPS."
    )


class NonEmptyGroup(BrokerError):
    code = "NON_EMPTY_GROUP"
    title = "Group has members"
    cause = "The group has members. Deleting it, or changing its offsets from outside, needs a group without members."
    cure = "Stop the consumers, or wait until their sessions expire."


class OffsetConflict(BrokerError):
    code = "OFFSET_CONFLICT"
    title = "Committed offset does not match"
    cause = "The from_offset of a commit is not the committed offset: the records were already committed."
    cure = (
        "Continue from committed_offset. If you repeated a transaction, the first one succeeded. Nothing was written."
    )


class CommitAboveLogEnd(BrokerError):
    code = "OFFSET_OUT_OF_RANGE"
    title = "Committed offset above the log end"
    cause = "A committed offset must not be above log_end_offset."
    cure = "Commit the offset after the last processed record."


class OffsetMetadataTooLarge(BrokerError):
    code = "OFFSET_METADATA_TOO_LARGE"
    title = "Offset metadata too large"
    cause = "The metadata of a commit is larger than 4,096 bytes."
    cure = "Store the data elsewhere, and a reference to it in the metadata."


class NoOffsetForPartition(BrokerError):
    code = "NO_OFFSET_FOR_PARTITION"
    title = "No offset for a partition"
    cause = "auto_offset_reset is none, and a partition has no committed offset, or retention removed its records."
    cure = (
        "Reset the group's offsets with POST /v1/groups/{group}/offsets/reset, or join with another auto_offset_reset."
    )
