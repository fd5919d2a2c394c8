"""The training loop and its parts: what is drawn, the step, the schedule, saving and resuming, callbacks."""
