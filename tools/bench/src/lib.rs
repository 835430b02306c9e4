//! The benchmarks of ECS, each with its baseline beside it
