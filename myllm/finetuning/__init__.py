"""What a pretrained model is taught: to classify, to follow instructions, with few trained parameters."""
