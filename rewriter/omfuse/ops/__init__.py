"""The Ascend C operator: build, install, check, emulate."""
