//! The ECS broker: routes requests, jobs and telemetry between agents and tools
