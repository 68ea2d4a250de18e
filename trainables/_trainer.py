"""transformers.Trainer for one loop: its arguments, and what it is fed with."""

from typing import TYPE_CHECKING, Any

from trainables._deepspeed import Shape
from trainables._order import Rows
from trainables._sharding import fsdp_also_on_cpus, precision_and_sharding

if TYPE_CHECKING:
    from trainables._loop import Loop

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}


def training_arguments(loop: "Loop") -> Any:
    """The Trainer's arguments. Before a model is loaded: ZeRO-3 divides its weights while they are read."""
    import torch
    from transformers import TrainingArguments

    train = loop.job.train
    shape = Shape(
        loop.micro_batch,
        loop.accumulation,
        loop.reporter.world_size,
        loop.placement.dtype,
        loop.placement.precision,
        loop.total_steps,
        loop.warmup_steps,
    )
    return TrainingArguments(
        output_dir=str(loop.scratch),
        per_device_train_batch_size=loop.micro_batch,
        gradient_accumulation_steps=loop.accumulation,
        max_steps=loop.total_steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_schedule,
        warmup_steps=loop.warmup_steps,
        weight_decay=train.weight_decay,
        optim=OPTIMIZERS[train.optimizer],
        adam_beta1=train.adam_beta1,
        adam_beta2=train.adam_beta2,
        adam_epsilon=train.adam_epsilon,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        use_cpu=not torch.cuda.is_available(),
        seed=loop.job.seed,
        data_seed=loop.job.seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        average_tokens_across_devices=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        **precision_and_sharding(loop.job, shape),
    )


def make_trainer(loop: "Loop", model: Any) -> Any:
    """A Trainer that takes batches, loss and groups of parameters from the loop, and tells it what happens."""
    from torch.utils.data import DataLoader
    from transformers import PrinterCallback, Trainer

    from trainables._callbacks import Watch
    from trainables.core.loss import causal_loss

    job, rows, order, batch = loop.job, Rows(loop.rows), loop.order, loop.batch
    groups_of = loop.groups

    class OurTrainer(Trainer):
        """Takes the batches as `Order` gives them, so that no rank repeats or drops a row."""

        def create_accelerator_and_postprocess(self) -> None:
            with fsdp_also_on_cpus(job):
                super().create_accelerator_and_postprocess()

        def get_train_dataloader(self) -> Any:
            return DataLoader(rows, batch_sampler=order, collate_fn=batch)

        def create_optimizer(self, model: Any = None) -> Any:
            """With the method's own groups of parameters where it has some."""
            groups = groups_of(model or self.model) if groups_of and self.optimizer is None else None
            if groups is not None:
                kind, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
                self.optimizer_cls_and_kwargs = (kind, {**options, "params": groups})
            return super().create_optimizer(model)

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        if loop.task is not None:
            found = loop.task.loss(outputs, labels, num_items_in_batch)
        else:
            found = causal_loss(outputs.logits, labels, num_items_in_batch)
        loop.gradients.after_forward(found, labels)
        return found

    model.config.use_cache = False
    trainer = OurTrainer(
        model=model,
        args=loop.training_arguments,
        train_dataset=rows,
        processing_class=loop.tokenizer,
        compute_loss_func=loss,
        callbacks=[Watch(loop)],
    )
    # Every step is recorded and reported already.
    trainer.remove_callback(PrinterCallback)
    return trainer
