"""What the benchmarks share: mixes of image sizes, interleaved timing, rooflines, the machine."""
