"""Commands on queues, and the worker behind `queue work`."""
