"""Renders the manifests in deploy/ in every combination and finds what an API server, a kubelet or the program would refuse.

`make deploy-check` runs it; tests/test_deploy.py runs the same rules. A rule is a function from `Manifests` to the mistakes it
finds; `rules.RULES` lists them.
"""
