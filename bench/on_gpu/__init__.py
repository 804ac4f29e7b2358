"""The parts of `bench/gpu.py`: each a section that measures one thing on the device and tells what it found."""
