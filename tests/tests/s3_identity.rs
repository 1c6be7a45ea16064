//! Who we are to S3, by the variables and files that AWS users have: profiles, web identity, nobody.

use std::path::Path;
use tempfile::TempDir;
use trawl_tests::{
    programs::{Ended, program, run},
    stack::Stack,
    web_files::{Asked, Page, WebFiles},
};

/// `trawl doctor` on a bucket, in an environment that has nothing but `variables`.
fn doctor(home: &TempDir, variables: &[(&str, &str)]) -> Ended {
    let mut command = program("trawl");
    command.current_dir(home.path()).env("HOME", home.path()).envs(variables.iter().copied());
    run(command.args(["doctor", "--store", "s3://trawl/identity", "--only", "store"]))
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the first request to S3 said of who sends it.
fn signature(asked: &[Asked]) -> Option<String> {
    let first = asked.first().expect("S3 was asked");
    first.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn a_profile_names_endpoint_region_and_keys() {
    let stack = Stack::start("s3");
    let home = tempfile::tempdir().unwrap();
    let (endpoint, region) = (stack.get("AWS_ENDPOINT_URL"), stack.get("AWS_REGION"));
    let (id, secret) = (stack.get("AWS_ACCESS_KEY_ID"), stack.get("AWS_SECRET_ACCESS_KEY"));
    let config = format!("[profile lab]\nregion = {region}\nendpoint_url = {endpoint}\n");
    let keys = format!("[lab]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    let (config, keys) = (write(home.path(), "config", &config), write(home.path(), "credentials", &keys));
    let files = [("AWS_CONFIG_FILE", &*config), ("AWS_SHARED_CREDENTIALS_FILE", &*keys)];
    let ended = doctor(&home, &[&files[..], &[("AWS_PROFILE", "lab")]].concat()).expect(0);
    assert!(ended.stdout.contains("one wins"), "{}", ended.stdout);
}

#[test]
fn nobody_signs_nothing() {
    let (home, s3) = (tempfile::tempdir().unwrap(), WebFiles::start());
    let endpoint = s3.url("");
    let known = [
        ("AWS_ENDPOINT_URL", &*endpoint),
        ("AWS_ACCESS_KEY_ID", "canary-id"),
        ("AWS_SECRET_ACCESS_KEY", "canary-secret"),
    ];
    for (name, value, signed) in [
        ("TRAWL_S3_ANONYMOUS", "true", false),
        ("AWS_SKIP_SIGNATURE", "1", false),
        ("TRAWL_S3_ANONYMOUS", "false", true),
    ] {
        let before = s3.asked().len();
        let ended = doctor(&home, &[&known[..], &[(name, value)]].concat());
        assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("canary"), "{}", ended.stdout);
        let asked = s3.asked().split_off(before);
        assert_eq!(signature(&asked).is_some(), signed, "{name}={value}");
        assert!(
            asked[0].path.starts_with("/trawl/identity/"),
            "the bucket is in the path: {}",
            asked[0].path
        );
    }
}

#[test]
fn a_web_identity_is_exchanged_for_keys() {
    let (home, s3, sts) = (tempfile::tempdir().unwrap(), WebFiles::start(), WebFiles::start());
    let answer = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <AssumeRoleWithWebIdentityResult><Credentials><SessionToken>session</SessionToken>\
        <SecretAccessKey>canary-secret</SecretAccessKey><Expiration>2099-01-01T00:00:00Z</Expiration>\
        <AccessKeyId>ASIAFROMTHEROLE</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>\
        </AssumeRoleWithWebIdentityResponse>";
    sts.set("/", Page::File(answer.into()));
    let token = write(home.path(), "token", "canary-token");
    let (endpoint, exchange) = (s3.url(""), sts.url(""));
    let ended = doctor(
        &home,
        &[
            ("AWS_ENDPOINT_URL_S3", &*endpoint),
            ("AWS_ENDPOINT_URL_STS", &*exchange),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/trawl"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &*token),
        ],
    );
    assert_eq!(sts.asked().len(), 1, "{}{}", ended.stdout, ended.stderr);
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("canary"), "{}", ended.stdout);
    let signature = signature(&s3.asked()).expect("it is signed");
    assert!(signature.contains("Credential=ASIAFROMTHEROLE/"), "{signature}");
}
