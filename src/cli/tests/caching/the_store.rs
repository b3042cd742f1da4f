//! A store that is damaged, and replies that are taken from store to store.

use crate::{chain, support};

mod a_damaged_store {
    use super::*;

    #[test]
    fn is_noticed_and_mended() {
        let place = chain();
        let events = place.run_events();
        let before = support::outputs(&events);
        // Lose every blob: the records stay behind without what they promise.
        std::fs::remove_dir_all(place.join("cache/blobs")).unwrap();
        let ran = place.run(&["plan", "experiment.toml"]);
        assert!(ran.stdout.contains("damaged"), "{}", ran.stdout);
        let events = place.run_events();
        assert_eq!(support::outputs(&events), before);
        assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
    }

    #[test]
    fn is_verified_with_its_replies() {
        let place = chain();
        place.built();
        place.write("cache/replies/a-teacher/00000000.replies", "not what a teacher said");
        let ran = place.run(&["cache", "verify"]);
        assert_eq!(ran.code, Some(4));
        let damage =
            "cache/replies/a-teacher/00000000.replies, 23 bytes from byte 0 on: it is not a segment of replies";
        assert!(ran.stdout.contains(damage), "{}", ran.stdout);
        let ran = place.run(&["cache", "verify", "--format", "json"]);
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&report["ok"], &report["replies"]["damaged"][0]["bytes"]), (&false.into(), &23.into()));
    }
}

mod replies {
    use super::*;

    const LINE: &str = r#"{"teacher":"one","key":"0101010101010101010101010101010101010101010101010101010101010101","max-tokens":16,"reply":{"outcome":"ok","text":"a","finish":"stop","model":"m","usage":{"prompt":1,"completion":3}},"check":"cd58acc43cd3b965"}"#;

    #[test]
    fn are_taken_from_store_to_store() {
        let place = chain();
        place.write("given.jsonl", &format!("{LINE}\n"));
        let import = ["cache", "replies", "import", "given.jsonl"];
        let ran = place.run(&import);
        assert_eq!(
            (ran.code, ran.stdout.trim()),
            (Some(0), "imported 1 replies; 0 were there already"),
            "{}",
            ran.stderr
        );
        assert_eq!(place.run(&import).stdout.trim(), "imported 0 replies; 1 were there already");
        let ran = place.run(&["cache", "replies", "export"]);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), LINE));
        assert_eq!(ran.stderr.trim(), "exported 1 replies of 1 teachers");
        let ran = place.run(&["cache", "replies", "export", "--teacher", "two"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("there is no teacher `two` among the stored replies"), "{}", ran.stderr);
    }

    #[test]
    fn that_were_changed_on_the_way_are_named_by_their_line() {
        let place = chain();
        let changed = LINE.replace("\"text\":\"a\"", "\"text\":\"b\"");
        place.write("given.jsonl", &format!("{changed}\n{LINE}\n"));
        let ran = place.run(&["cache", "replies", "import", "given.jsonl"]);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(3), "imported 1 replies; 0 were there already"));
        assert!(ran.stderr.contains("given.jsonl, line 1: the reply does not match its checksum"), "{}", ran.stderr);
        let ran = place.run(&["cache", "replies", "import", "none.jsonl"]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.stderr.contains("the exported replies cannot be read"), "{}", ran.stderr);
    }
}
