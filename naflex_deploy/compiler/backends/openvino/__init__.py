"""Lowering for OpenVINO on a CPU."""
