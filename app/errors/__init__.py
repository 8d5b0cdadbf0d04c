"""Every refusal Millrace knows: one class is one problem type.

`code` is Kafka's symbolic name where Kafka has one. `cause` and `cure` are the text of the problem's page.
The HTTP status of each class stands in `app/api/http/problems.py`, the only place that knows one.
"""
