"""What CoFi and FLOP share: learned gates and the training that moves them."""
