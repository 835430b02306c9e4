//! Where the packets of a message land, whatever it holds: sent through real sockets.

use super::*;
use crate::{place, socket::PortSocket};
use ecs_schemas::detector::DetectorConfig;
use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

/// One EIGER quadrant at 8 bit: 32 packets of 4144 bytes, with gaps between the chips.
fn placement() -> Placement {
    let json = r#"{"detector_name": "q", "detector_type": "eiger", "n_modules": 1, "bit_depth": 8,
        "image_pixel_height": 256, "image_pixel_width": 514, "start_udp_port": 1,
        "module_positions": {"0": [0, 0, 513, 255]}}"#;
    DetectorConfig::from_json(json).and_then(|config| config.placement()).unwrap()
}

/// A sender and a receiver; messages of the sender are cut into packets of `packet_bytes`, which
/// arrive coalesced.
fn sockets(packet_bytes: i32) -> (UdpSocket, PortSocket) {
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bind = |port| Some((port, PortSocket::bind(Ipv4Addr::LOCALHOST, port, 1 << 20, true).ok()?));
    let (port, receiver) = (40_000..).find_map(bind).unwrap();
    sender.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let value = (&raw const packet_bytes).cast();
    // SAFETY: the option is an int and outlives the call.
    let result = unsafe { libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, 4) };
    assert_eq!(result, 0);
    (sender, receiver)
}

/// Packets whose bytes tell which one it is, and where in it.
fn packets(packet_bytes: usize, count: usize) -> Vec<u8> {
    let packet = |number: usize| (0..packet_bytes).map(move |byte| (number * 31 + byte) as u8);
    (0..count).flat_map(packet).collect()
}

/// Aims each place at that of the packet of the same number, and receives.
fn receive(batch: &mut Batch, socket: &PortSocket, placement: &Placement, pixels: &mut [u8]) -> usize {
    for place in 0..batch.begin(None) {
        match place < placement.packets_per_module {
            true => batch.aim_at_image(placement, place, place, pixels.as_mut_ptr()),
            false => batch.aim_at_staging(),
        }
    }
    // SAFETY: the places lead into `pixels` and the batch.
    unsafe { socket::receive(socket.fd(), batch.messages()) }.unwrap()
}

/// Packets and malformed ones of the first message.
fn held(batch: &mut Batch) -> (usize, usize) {
    let contents = batch.contents(0);
    (contents.packets, contents.malformed)
}

#[test]
fn coalesced_packets_land_in_staging_once_and_in_their_places_from_then_on() {
    let placement = placement();
    let (sender, receiver) = sockets(placement.packet_bytes() as i32);
    let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
    let sent = packets(placement.packet_bytes(), 15);
    let mut images = Vec::new();
    for round in 0..3 {
        pixels.fill(0);
        sender.send(&sent).unwrap();
        assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 1);
        let contents = batch.contents(0);
        assert_eq!((contents.packets, contents.malformed), (15, 0));
        for packet in 0..15 {
            let landed = batch.landed(&contents, 0, packet);
            let (header, payload) = sent[packet * batch.packet_bytes..][..batch.packet_bytes].split_at(48);
            assert_eq!(&batch.header(landed)[..48], header, "packet {packet} of round {round}");
            let place = batch.image_place(landed);
            assert_eq!(place, (round > 0 || packet == 0).then_some(packet));
            match place {
                // SAFETY: the place leads into `pixels`.
                Some(_) => unsafe { batch.fetch_to_staging(landed, &placement, packet, pixels.as_mut_ptr()) },
                // SAFETY: as above.
                None => unsafe { place::place(&placement, packet, batch.payload(landed), pixels.as_mut_ptr()) },
            }
            assert!(batch.payload(landed) == payload, "packet {packet}");
        }
        images.push(pixels.clone());
    }
    assert!(images[0] == images[1] && images[1] == images[2], "placed by the kernel as from staging");
}

#[test]
fn a_port_whose_packets_come_one_by_one_again_receives_many_a_batch_again() {
    let placement = placement();
    let (sender, receiver) = sockets(placement.packet_bytes() as i32);
    let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
    let sent = packets(placement.packet_bytes(), 2);
    sender.send(&sent).unwrap();
    receive(&mut batch, &receiver, &placement, &mut pixels);
    assert_eq!(batch.contents(0).packets, 2);
    for _ in 0..SINGLES_IN_A_ROW {
        assert_eq!(batch.begin(None), 15);
        sender.send(&sent[..placement.packet_bytes()]).unwrap();
        assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 1);
        assert_eq!(held(&mut batch), (1, 0));
    }
    assert_eq!(batch.begin(None), BATCH_PACKETS);
}

#[test]
fn packets_of_another_length_are_malformed_each_of_them() {
    let placement = placement();
    let right = placement.packet_bytes();
    for (packet_bytes, bytes, expected) in [
        (right, 3 * right + 100, (3, 1)),
        (right, right - 1, (0, 1)),
        (1000, 4 * right, (0, 17)),
        (1000, 0, (0, 1)),
        (0, 2 * right, (0, 1)), // one message, not cut
        (0, 65_507, (0, 1)),
    ] {
        let (sender, receiver) = sockets(packet_bytes as i32);
        let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
        sender.send(&vec![7; bytes]).unwrap();
        assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 1);
        assert_eq!(held(&mut batch), expected, "{bytes} bytes in packets of {packet_bytes}");
    }
}

#[test]
fn source_of_each_message_is_told_where_it_is_asked_for() {
    let placement = placement();
    let (sender, receiver) = sockets(placement.packet_bytes() as i32);
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = local_port(&receiver);
    let (mut batch, mut pixels) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
    for is_asked in [false, true] {
        for socket in [&sender, &other, &sender] {
            let bytes = packets(placement.packet_bytes(), 1);
            socket.send_to(&bytes, (Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        assert_eq!(receive(&mut batch, &receiver, &placement, &mut pixels), 3);
        let told: Vec<_> = (0..3).map(|message| batch.source(message).map(|source| source.port())).collect();
        let ports = [&sender, &other, &sender].map(|socket| Some(socket.local_addr().unwrap().port()));
        assert_eq!(told, if is_asked { ports } else { [None; 3] });
        batch.ask_for_sources();
    }
}

fn local_port(socket: &PortSocket) -> u16 {
    // SAFETY: the address lives over the call and has the size that is told.
    unsafe {
        let mut address: libc::sockaddr_in = mem::zeroed();
        let mut bytes = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        assert_eq!(libc::getsockname(socket.fd(), (&raw mut address).cast(), &raw mut bytes), 0);
        u16::from_be(address.sin_port)
    }
}

#[test]
fn discarded_packets_are_counted_one_by_one() {
    let placement = placement();
    let (sender, receiver) = sockets(placement.packet_bytes() as i32);
    sender.send(&packets(placement.packet_bytes(), 15)).unwrap();
    sender.send(&packets(placement.packet_bytes(), 1)).unwrap();
    assert_eq!(socket::discard(receiver.fd(), 1 << 17).unwrap(), 16);
}

/// 14 pixels of 8 bit in packets of 4: three whole ones and a short one of 2; header of 8 bytes.
fn short_last() -> Placement {
    let text = "detector_type = \"short\"\nstart_udp_port = 1\n[module]\ncolumns = 14\nrows = 1\nbit_depth = 8\n\
        [packet]\nheader_bytes = 8\npayload_bytes = 4\n[fields]\nimage_id = { offset = 0, bytes = 4 }\n\
        packet_number = { offset = 4, bytes = 4 }";
    DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap()
}

/// A packet of `short_last`: its payload tells its number.
fn numbered(number: usize) -> Vec<u8> {
    let payload = vec![0x10 * (number as u8 + 1); if number == 3 { 2 } else { 4 }];
    [vec![0xee; 8], payload].concat()
}

/// Makes the batch coalesced, receives one message of packets with these numbers, cut into packets of
/// `packet_bytes`, where 0, 1, 2, 3, 0, … were predicted, and puts each to its place in an image of its own.
fn places_of(numbers: &[usize], packet_bytes: i32) -> Vec<Vec<u8>> {
    let placement = short_last();
    let (sender, receiver) = sockets(packet_bytes);
    let (mut batch, mut predicted) = (Batch::new(&placement), vec![0; placement.image_bytes()]);
    batch.singles_in_a_row = 0;
    for place in 0..batch.begin(None) {
        batch.aim_at_image(&placement, place % 4, place % 4, predicted.as_mut_ptr());
    }
    sender.send(&numbers.iter().flat_map(|&number| numbered(number)).collect::<Vec<u8>>()).unwrap();
    // SAFETY: the places lead into `predicted` and the batch.
    let messages = unsafe { socket::receive(receiver.fd(), batch.messages()) }.unwrap();
    let contents = batch.contents(0);
    assert_eq!((messages, contents.packets, contents.malformed), (1, numbers.len(), 0));
    if batch.is_out_of_step(&contents) {
        // SAFETY: as above.
        unsafe { batch.fetch_message(0) };
    }
    let mut images = Vec::new();
    for (packet, &number) in numbers.iter().enumerate() {
        let landed = batch.landed(&contents, 0, packet);
        assert_eq!(batch.header(landed)[..8], [0xee; 8], "packet {packet} of {numbers:?}");
        assert_eq!(batch.payload_bytes(landed), numbered(number).len() - 8);
        let place = batch.image_place(landed).map(|place| place % 4);
        if let Some(expected) = place.filter(|&expected| expected != number) {
            // SAFETY: as above.
            unsafe { batch.fetch_to_staging(landed, &placement, expected, predicted.as_mut_ptr()) };
        }
        let mut image = vec![0; placement.image_bytes()];
        if place == Some(number) {
            image = predicted.clone();
        } else {
            // SAFETY: the image is of this placement.
            unsafe { place::place(&placement, number, batch.payload(landed), image.as_mut_ptr()) };
        }
        images.push(image[4 * number..(4 * number + 4).min(14)].to_vec());
    }
    images
}

#[test]
fn short_last_packets_land_right_whether_predicted_or_not() {
    // As predicted; a long one where the short one was expected, and more behind it; a short one instead of a
    // long one; short ones alone.
    for (numbers, packet_bytes) in
        [(&[0, 1, 2, 3][..], 12), (&[0, 1, 2, 0, 1, 2, 0, 3], 12), (&[0, 3], 12), (&[3, 3, 3], 10), (&[1, 1, 1], 12)]
    {
        let expected: Vec<Vec<u8>> = numbers.iter().map(|&number| numbered(number)[8..].to_vec()).collect();
        assert_eq!(places_of(numbers, packet_bytes), expected, "{numbers:?}");
    }
}

#[test]
fn staged_batches_hold_whole_messages_of_any_packets() {
    let text = "detector_type = \"gigafrost\"\nstart_udp_port = 1\nimage_pixel_height = 252\n\
        image_pixel_width = 504";
    let placement = DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap();
    let (sender, receiver) = sockets(6494);
    let mut batch = Batch::new(&placement);
    assert!(batch.is_staged());
    let lengths = [6494, 6494, 6494, 4568];
    let image: Vec<u8> = lengths.iter().zip(1..).flat_map(|(&bytes, number)| vec![number; bytes]).collect();
    for round in 0..3 {
        for _ in 0..2 {
            sender.send(&image).unwrap();
        }
        let messages = batch.stage();
        assert_eq!(messages.len(), if round == 0 { 40 } else { 4 });
        // SAFETY: all of it is staging.
        assert_eq!(unsafe { socket::receive(receiver.fd(), batch.stage()) }.unwrap(), 2);
        for message in 0..2 {
            let contents = batch.contents(message);
            assert_eq!((contents.packets, contents.malformed), (4, 0));
            for (packet, bytes) in lengths.into_iter().enumerate() {
                let landed = batch.landed(&contents, message, packet);
                assert_eq!(batch.payload(landed), vec![packet as u8 + 1; bytes - 32], "message {message}");
            }
        }
    }
}

/// As `short_last`, but a module's last packet is as long as the others: its last two bytes are no pixels.
fn padded_last() -> Placement {
    let text = "detector_type = \"padded\"\nstart_udp_port = 1\n[module]\ncolumns = 14\nrows = 1\nbit_depth = 8\n\
        [packet]\nheader_bytes = 8\npayload_bytes = 4\nlast = \"full\"\n[fields]\nimage_id = { offset = 0, bytes = 4 }\n\
        packet_number = { offset = 4, bytes = 4 }";
    DetectorConfig::from_toml(text).and_then(|config| config.placement()).unwrap()
}

#[test]
fn what_comes_behind_a_padded_packet_of_a_message_lands_in_its_place() {
    let placement = padded_last();
    let (sender, receiver) = sockets(12);
    let mut batch = Batch::new(&placement);
    batch.singles_in_a_row = 0;
    let mut images = vec![vec![0_u8; placement.image_bytes()]; BATCH_PACKETS];
    for place in 0..batch.begin(None) {
        batch.aim_at_image(&placement, place % 4, place % 4, images[place / 4].as_mut_ptr());
    }
    let header = |packet: usize| [0xe0 + packet as u8; 8];
    let payload = |packet: usize| [0x10 * (packet as u8 + 1); 4];
    sender
        .send(&(0..12).flat_map(|packet| [&header(packet)[..], &payload(packet)].concat()).collect::<Vec<u8>>())
        .unwrap();
    // SAFETY: the places lead into `images` and the batch.
    assert_eq!(unsafe { socket::receive(receiver.fd(), batch.messages()) }.unwrap(), 1);
    let contents = batch.contents(0);
    assert_eq!((contents.packets, contents.malformed), (12, 0));
    for packet in 0..12 {
        let landed = batch.landed(&contents, 0, packet);
        assert_eq!(batch.header(landed)[..8], header(packet), "header of packet {packet}");
        assert_eq!(batch.image_place(landed), Some(packet));
        let (image, begin) = (packet / 4, packet % 4 * 4);
        let pixels = &images[image][begin..(begin + 4).min(14)];
        assert_eq!(pixels, &payload(packet)[..pixels.len()], "packet {packet}");
        // SAFETY: the image is of this placement.
        unsafe { batch.fetch_to_staging(landed, &placement, packet % 4, images[image].as_mut_ptr()) };
        assert_eq!(batch.payload(landed), payload(packet), "packet {packet}");
    }
}
