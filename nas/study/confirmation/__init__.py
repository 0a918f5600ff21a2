"""What is done again before it is believed: costs of a front measured whole, designs near it trained on fresh seeds."""
