"""`python -m machete.demo`: a small language model, quantised in every way, side by side. Needs the extra `demo`."""
