//! Order of the sources, secrets in files, and what is refused.

use super::*;
use secrecy::ExposeSecret;

fn file(text: &str) -> tempdir::File {
    tempdir::File::new(text)
}

/// A settings file of one test, removed with it.
mod tempdir {
    use std::path::PathBuf;

    pub struct File(pub PathBuf);

    impl File {
        pub fn new(text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-config-{}.toml", uuid::Uuid::new_v4()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

fn load(toml: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let file = file(toml);
    let flags: Vec<(&str, String)> = flags.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    Config::load_from(Some(&file.0), environment.iter().map(|(name, text)| (*name, *text)), &flags).map_err(|error| error.to_string())
}

#[test]
fn every_name_can_be_set_from_the_environment() {
    for (name, kind) in names::ALL {
        let text = match kind {
            names::Kind::Whole => "7",
            names::Kind::Flag => "true",
            names::Kind::Text | names::Kind::List if name == "stores.mode" => "distributed",
            names::Kind::Text if name == "ledger.write" => "per_request",
            names::Kind::Text if name == "audit.signing_key" => "000102030405060708090a0b0c0d0e0f000102030405060708090A0B0C0D0E0F",
            _ => "a-text-of-more-than-thirty-two-bytes",
        };
        let variable = names::variable(name);
        let environment = [(variable.as_str(), text), ("WEIR__IDENTITY__SECRET", "0123456789012345678901234567890123")];
        load("", &environment, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
    let toml = "listen = \"a:1\"\ndata_dir = \"from-file\"\nlog = \"debug\"\n[cassandra]\nnodes = [\"x:1\"]\n";
    let environment = [("WEIR__LISTEN", "b:2"), ("WEIR__DATA_DIR", "from-env"), ("PATH", "/bin"), ("WEIR_OTHER", "x")];
    let config = load(toml, &environment, &[("listen", "c:3")]).unwrap();
    assert_eq!(config.listen, "c:3");
    assert_eq!(config.data_dir, PathBuf::from("from-env"));
    assert_eq!((config.log.as_str(), config.redis.prefix.as_str()), ("debug", "weir"));
    assert_eq!(config.cassandra.nodes, ["x:1"]);
}

#[test]
fn text_is_read_by_the_kind_of_its_name() {
    let environment = [
        ("WEIR__CASSANDRA__NODES", "a:9042, b:9042,"),
        ("WEIR__BENCH__ECHO", "true"),
        ("WEIR__POSTGRES__MAX_CONNECTIONS", "32"),
        ("WEIR__ADMIN__API_KEY", "1234"),
        ("WEIR__STORES__MODE", "distributed"),
        ("WEIR__LEDGER__WRITE", "per_request"),
    ];
    let config = load("", &environment, &[]).unwrap();
    assert_eq!(config.cassandra.nodes, ["a:9042", "b:9042"]);
    assert!(config.bench.echo);
    assert_eq!(config.postgres.max_connections, 32);
    assert_eq!(config.admin.api_key.unwrap().expose_secret(), "1234");
    assert_eq!((config.stores.mode, config.ledger.write), (StoresMode::Distributed, LedgerWrite::PerRequest));
}

#[test]
fn a_secret_is_read_from_a_file_and_never_shown() {
    let secret = file("weir_secret\n");
    let path = secret.0.to_str().unwrap();
    let config = load("", &[("WEIR__ADMIN__API_KEY_FILE", path)], &[]).unwrap();
    assert!(!format!("{config:?}").contains("weir_secret"));
    assert_eq!(config.admin.api_key.unwrap().expose_secret(), "weir_secret");
    let missing = load("", &[("WEIR__ADMIN__API_KEY_FILE", "/no/such/file")], &[]).unwrap_err();
    assert_eq!(missing, "the file /no/such/file named by WEIR__ADMIN__API_KEY_FILE cannot be read");
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_known_one() {
    let error = load("", &[("WEIR__POSTGRES__URI", "x")], &[]).unwrap_err();
    assert_eq!(error, "environment: there is no setting WEIR__POSTGRES__URI; the nearest known name is WEIR__POSTGRES__URL");
    let error = load("[store]\nmode = \"embedded\"\n", &[], &[]).unwrap_err();
    assert!(error.ends_with("there is no setting store.mode; the nearest known name is stores.mode"), "{error}");
    assert!(load("", &[], &[("lisen", "x")]).unwrap_err().ends_with("the nearest known name is listen"));
}

#[test]
fn a_value_of_the_wrong_kind_names_its_setting_and_is_not_repeated() {
    let error = load("", &[("WEIR__POSTGRES__MAX_CONNECTIONS", "many")], &[]).unwrap_err();
    assert_eq!(error, "setting WEIR__POSTGRES__MAX_CONNECTIONS must be a whole number");
    let error = load("", &[("WEIR__STORES__MODE", "cloud")], &[]).unwrap_err();
    assert_eq!(error, "setting stores.mode must be one of embedded, distributed");
    assert_eq!(load("[bench]\necho = \"hunter2\"\n", &[], &[]).unwrap_err(), "setting bench.echo must be a boolean");
    let error = load("", &[("WEIR__IDENTITY__SECRET", "hunter2")], &[]).unwrap_err();
    assert_eq!(error, "setting identity.secret must have at least 32 bytes");
    let error = load("", &[("WEIR__AUDIT__SIGNING_KEY", "hunter2")], &[]).unwrap_err();
    assert_eq!(error, "setting audit.signing_key must be 64 hexadecimal digits, as `openssl rand -hex 32` makes them");
    assert!(load("listen = ", &[], &[]).unwrap_err().contains("cannot be used"));
}
