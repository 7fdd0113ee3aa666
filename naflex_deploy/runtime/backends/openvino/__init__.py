"""Running packs on OpenVINO on a CPU."""
