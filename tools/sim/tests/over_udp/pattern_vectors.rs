//! Pixels are those that `check_pattern.py`, written from the documentation alone, has worked out.

use ecs_sim::pattern::pixel;

#[test]
fn images_have_the_checksums_of_the_numpy_formula() {
    let vectors = include_str!("../pattern_vectors.txt").lines().filter(|line| !line.starts_with('#'));
    let mut checked = 0;
    for vector in vectors {
        let numbers: Vec<u64> = vector.split(' ').map(|number| number.parse().unwrap()).collect();
        let [bits, seed, image_id, height, width, wanted] = numbers[..] else { panic!("not a vector: {vector}") };
        let places = (0..height as usize).flat_map(|y| (0..width as usize).map(move |x| (y, x)));
        let sum = places.zip(1_u64..).fold(0_u64, |sum, ((y, x), factor)| {
            sum.wrapping_add(factor.wrapping_mul(pixel(seed, image_id, y, x, bits as u32).into()))
        });
        assert_eq!(sum, wanted, "{vector}");
        checked += 1;
    }
    assert_eq!(checked, 10, "vectors in the file");
}
