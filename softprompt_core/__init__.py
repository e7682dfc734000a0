"""Train and inspect soft prompts on frozen language models."""
