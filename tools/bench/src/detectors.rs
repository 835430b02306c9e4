//! The detectors whose packets are measured: four ports each.

/// UDP ports of each, one for each module.
pub const PORTS: u16 = 4;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Two half modules: packets of 4,096 bytes of pixels, which lie in 8 pieces of half a row, with gaps between.
    Eiger500K,
    /// Four modules on top of each other, raw: packets of 8,192 bytes of pixels, which lie in one piece.
    Jungfrau2M,
    /// The first at 8 bit: half as many packets, of which an image's fit into any socket's buffer.
    #[cfg(test)]
    Eiger8Bit,
}

impl Which {
    pub fn name(self) -> &'static str {
        match self {
            Self::Eiger500K => "EIGER 500K",
            Self::Jungfrau2M => "JUNGFRAU 2M raw",
            #[cfg(test)]
            Self::Eiger8Bit => "EIGER 500K, 8 bit",
        }
    }

    /// Its configuration, as std-daq has it.
    pub fn json(self, start_udp_port: u16) -> String {
        match self {
            Self::Eiger500K => eiger(start_udp_port, 16),
            #[cfg(test)]
            Self::Eiger8Bit => eiger(start_udp_port, 8),
            Self::Jungfrau2M => format!(
                r#"{{"detector_name": "bench", "detector_type": "jungfrau", "n_modules": 4, "bit_depth": 16,
                    "image_pixel_height": 2048, "image_pixel_width": 1024, "start_udp_port": {start_udp_port},
                    "module_positions": {{"0": [0, 0, 1023, 511], "1": [0, 512, 1023, 1023],
                                          "2": [0, 1024, 1023, 1535], "3": [0, 1536, 1023, 2047]}}}}"#
            ),
        }
    }
}

fn eiger(start_udp_port: u16, bit_depth: u32) -> String {
    format!(
        r#"{{"detector_name": "bench", "detector_type": "eiger", "n_modules": 4, "bit_depth": {bit_depth},
            "image_pixel_height": 514, "image_pixel_width": 1030, "start_udp_port": {start_udp_port},
            "module_positions": {{"0": [0, 258, 513, 513], "1": [516, 258, 1029, 513],
                                  "2": [0, 255, 513, 0], "3": [516, 255, 1029, 0]}}}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecs_schemas::detector::DetectorConfig;

    #[test]
    fn pixels_of_a_packet_lie_as_they_are_said_to() {
        let pieces = |which: Which| {
            let config = DetectorConfig::from_json(&which.json(50_000)).unwrap();
            let placement = config.placement().unwrap();
            assert_eq!(placement.ports.len(), usize::from(PORTS));
            (placement.payload_bytes, placement.segments_per_packet_max(), placement.image_bytes())
        };
        assert_eq!(pieces(Which::Eiger500K), (4096, 8, 514 * 1030 * 2));
        assert_eq!(pieces(Which::Jungfrau2M), (8192, 1, 2048 * 1024 * 2));
    }
}
