"""The Trainer's callback: passes what happens to the loop and decides when to save."""

from typing import Any

from transformers import TrainerCallback


class Watch(TrainerCallback):
    """Feeds `Loop` from the Trainer's events."""

    def __init__(self, loop: Any):
        self.loop = loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Model and optimizer are wrapped, and no step was made yet."""
        self.loop.began()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The order of rows depends on the epoch; the Trainer does not tell a plain batch sampler."""
        self.loop.order.epoch = state.global_step // self.loop.steps_per_epoch

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the first forward pass of a step."""
        self.loop.begins(state.global_step + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The gradients of the whole step are there, clipped already."""
        self.loop.stepping(state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> Any:
        """One step's loss, learning rate and gradient norm."""
        if logs and "loss" in logs and "learning_rate" in logs:
            self.loop.stepped(state.global_step, logs)
            if self.loop.should_measure(state.global_step):
                self.loop.measure(state.global_step)
            if self.loop.stopped:
                # Without a checkpoint of the last step a resumed trial would train on.
                control.should_training_stop = control.should_save = True
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """The Trainer's own save strategies do not know `end`, nor fractions of an epoch."""
        control.should_save = self.loop.should_save(state.global_step)
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Every rank has written its part: hand the folder over."""
        self.loop.saved(state.global_step)
