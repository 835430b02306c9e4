//! Simulated detectors: packets whose every pixel can be recomputed
