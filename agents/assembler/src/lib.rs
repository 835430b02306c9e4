//! Opens and closes images, counts every loss, keeps order
