//! What every ECS agent and tool is built on: connect, register, heartbeats, jobs, telemetry
