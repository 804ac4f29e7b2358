"""Peers that do not keep to the rules, and what a server looks like meanwhile.

Each attack is a function `attack(address, ...) -> dict` of what was sent and what was answered. It sends for 15 seconds
at most, and waits for answers longer. `watch` observes the server from a process of its own.
"""
