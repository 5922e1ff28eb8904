"""Real daemons over the kernel's md in the lab's guests, and what is proved of them."""
