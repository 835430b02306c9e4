//! The ECS ring: detector images in shared memory, without copies
