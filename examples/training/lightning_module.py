"""A classifier of rare classes trained by Lightning with the focal loss."""

import logging
import warnings

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossbridge.torch as L


class Classifier(lightning.LightningModule):
    """The loss is an attribute: a module, so it moves to the device and is saved with the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 3)
        self.loss = L.FocalLoss(gamma=2.0)

    def training_step(self, batch, _):
        x, labels = batch
        value = self.loss(self.network(x), labels)
        self.log("loss", value)
        return value

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def main() -> None:
    lightning.seed_everything(0)
    x = torch.randn(256, 4)
    labels = x[:, :3].argmax(1)
    model = Classifier()
    before = model.loss(model.network(x), labels).item()
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(x, labels), batch_size=64, shuffle=True))
    print(f"loss {before:.2f} -> {model.loss(model.network(x), labels).item():.2f}")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    main()
