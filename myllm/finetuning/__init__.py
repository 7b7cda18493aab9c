"""Fine-tuning a pretrained model: classification, instructions, preferences, rewards, adapters."""
