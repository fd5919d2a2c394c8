"""From whatever a user calls "my pictures" to tensors: sources -> samples -> transforms -> resident training set."""
