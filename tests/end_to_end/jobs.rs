//! Jobs: one after the other, cancelled, submitted twice.

use crate::support::{Beamline, Detector, Outcome, check_images};

#[test]
fn jobs_wait_for_each_other_and_each_gets_its_own_images() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let first = beamline.submit_running("first.h5", 50, &["--start", "1"]);
    let second = beamline.call(&["submit", "write", "--output", "second.h5", "--images", "50", "--json"]).ok().json();
    assert_eq!(second["state"], "submitted");
    Outcome::of(&mut beamline.sim(5000, 500, &[])).ok();
    for (job, file) in [(first, "first.h5"), (second["id"].as_u64().unwrap(), "second.h5")] {
        let ended = beamline.wait_end(job);
        assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &50.into()), "{ended:#}");
        assert_eq!(check_images(&beamline.path(file), &[])["complete"], 50);
    }
}

#[test]
fn a_cancelled_job_ends_its_file_cleanly_with_what_it_has() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("run.h5", 100_000, &["--start", "1"]);
    Outcome::of(&mut beamline.sim(120, 500, &[])).ok();
    beamline.wait_job(job, |job| job["progress"]["done"].as_u64() == Some(120));
    beamline.call(&["cancel", &job.to_string()]).ok();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    let counts = check_images(&beamline.path("run.h5"), &[]);
    assert_eq!(
        (&counts["complete"], &counts["rows"], &counts["state"]),
        (&120.into(), &120.into(), &"cancelled".into())
    );
    assert_eq!(counts["lost"]["cancelled"], 100_000 - 120, "{counts:#}");
}

#[test]
fn a_waiting_job_is_cancelled_at_once_and_the_running_one_goes_on() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let running = beamline.submit_running("a.h5", 10, &["--start", "1"]);
    let waiting = beamline.call(&["submit", "write", "--output", "b.h5", "--images", "10", "--json"]).ok().json();
    let waiting = waiting["id"].as_u64().unwrap();
    beamline.call(&["cancel", &waiting.to_string()]).ok();
    assert_eq!(beamline.job(waiting)["state"], "cancelled");
    Outcome::of(&mut beamline.sim(10, 100, &[])).ok();
    assert_eq!(beamline.wait_end(running)["state"], "done");
    assert!(!beamline.path("b.h5").exists());
}

#[test]
fn the_same_key_twice_is_one_job() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let submit = ["submit", "write", "--output", "a.h5", "--images", "10", "--once", "run 7", "--json"];
    let (first, second) = (beamline.call(&submit).ok().json(), beamline.call(&submit).ok().json());
    assert_eq!(first["id"], second["id"]);
    assert_eq!(beamline.call(&["jobs", "--json"]).ok().json()["jobs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_wait_ends_with_3_when_an_image_is_not_whole_and_with_0_when_all_are() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("partial.h5", 50, &["--start", "1"]);
    Outcome::of(&mut beamline.sim(50, 200, &["--drop", "0.05", "--seed", "3"])).ok();
    beamline.call(&["job", &job.to_string(), "--wait"]).fails_with(3, "partial");
    let job = beamline.submit_running("whole.h5", 50, &["--start", "1001"]);
    Outcome::of(&mut beamline.sim(50, 200, &["--start", "1001"])).ok();
    beamline.call(&["job", &job.to_string(), "--wait"]).ok();
}

#[test]
fn a_second_run_with_the_same_ids_is_a_run_of_its_own() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    for run in 0..3 {
        let file = format!("run{run}.h5");
        let job = beamline.submit_running(&file, 40, &["--start", "1"]);
        let seed = run.to_string();
        Outcome::of(&mut beamline.sim(40, 400, &["--seed", &seed])).ok();
        let ended = beamline.wait_end(job);
        assert_eq!(
            (&ended["state"], &ended["result"]["written"]),
            (&"done".into(), &40.into()),
            "run {run}: {ended:#}"
        );
        assert_eq!(check_images(&beamline.path(&file), &["--seed", &seed])["complete"], 40);
    }
}
