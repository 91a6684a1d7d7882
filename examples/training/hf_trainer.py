"""A causal language model trained by transformers' Trainer with a loss of ours.

``L.as_hf`` gives the function that ``compute_loss_func=`` wants: it reads the logits from the
model's output, pairs each position with the next token, and divides by the number of tokens of the
whole accumulated batch, which the Trainer counts.
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import lossbridge.torch as L

# The five lines.
loss = L.as_hf(L.CrossEntropyLoss(label_smoothing=0.1), shift_labels=True)


def trainer(model, arguments, data):
    return Trainer(model, arguments, train_dataset=data, compute_loss_func=loss)


def main() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32,
        n_positions=16,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    # Each sequence counts upwards from its own start.
    tokens = (torch.arange(16) + torch.arange(64)[:, None]) % 32
    data = [{"input_ids": row, "labels": row} for row in tokens]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=40,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=20,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        job = trainer(GPT2LMHeadModel(config), arguments, data)
        job.train()
    first, last = (entry["loss"] for entry in job.state.log_history if "loss" in entry)
    print(f"loss {float(first):.2f} -> {float(last):.2f}")


if __name__ == "__main__":
    main()
