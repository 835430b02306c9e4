//! Receives detector packets straight into their place in the open image
