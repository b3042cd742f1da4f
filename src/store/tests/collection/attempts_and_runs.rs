//! What is left of attempts and runs.

use super::*;

mod sweeping_attempts {
    use super::*;

    #[test]
    fn clears_scratch_keeps_logs_and_spares_the_living() {
        let (_folder, store) = store();
        let files = [("log", "it failed"), ("events.jsonl", "{}"), ("scratch/big", "xxxx"), ("core", "y")];
        let (dead, living, silent) = (key("dead"), key("living"), key("silent"));
        let dirs = [&dead, &living].map(|key| store.attempt_dir(key, "1").unwrap());
        dirs.iter().for_each(|dir| write_files(dir, &files));
        store.attempt_dir(&silent, "1").unwrap();
        let lease = store.lease(&living.to_string(), &owner()).unwrap().unwrap();
        let report = store.sweep_attempts().unwrap();
        assert_eq!((report.running, report.kept, report.removed, report.bytes), (1, 1, 1, 5));
        assert!(dirs[0].join("log").exists() && dirs[0].join("events.jsonl").exists());
        assert!(!dirs[0].join("scratch").exists() && !dirs[0].join("core").exists());
        assert!(dirs[1].join("scratch/big").exists());
        drop(lease);
        store.remove_attempt(&living, "1").unwrap();
        assert!(!dirs[1].parent().unwrap().exists());
        assert!(store.attempt_dir(&dead, "1").unwrap_err().to_string().contains("exists"));
    }

    #[test]
    fn keeps_the_newest_fifty_logs() {
        let (_folder, store) = store();
        for number in 0..60_u32 {
            let dir = store.attempt_dir(&key("a"), &number.to_string()).unwrap();
            write_files(&dir, &[("log", "x")]);
            age(&dir.join("log"), Duration::from_secs(u64::from(number) * 60));
        }
        let report = store.sweep_attempts().unwrap();
        assert_eq!((report.kept, report.removed), (50, 10));
        let dir = store.root().join("attempts").join(key("a").to_string());
        assert!(dir.join("0").exists() && dir.join("49").exists() && !dir.join("50").exists());
    }
}

mod runs {
    use super::*;

    #[test]
    fn sort_by_time_and_are_found_by_a_part_of_their_name() {
        let (_folder, store) = store();
        assert!(store.find_run("last").unwrap_err().to_string().contains("no runs yet"));
        let runs: Vec<_> = (0..3).map(|_| store.create_run().unwrap()).collect();
        let ids: Vec<&str> = runs.iter().rev().map(|run| run.id()).collect();
        let listed = store.runs().unwrap();
        assert_eq!(listed.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ids);
        assert!(listed.iter().all(|run| run.live));
        assert_eq!(store.find_run("last").unwrap().id, ids[0]);
        assert_eq!(store.find_run(ids[1]).unwrap().id, ids[1]);
        assert!(store.find_run("2").unwrap_err().to_string().contains("several"));
        assert!(store.find_run("zzz").unwrap_err().to_string().contains("no run \"zzz\""));
        assert!(store.find_run("").is_err());
        let path = runs[0].entry().events_path();
        assert!(path.ends_with(format!("runs/{}/events.jsonl", runs[0].id())));
        drop(runs);
        assert!(store.runs().unwrap().iter().all(|run| !run.live));
    }
}
