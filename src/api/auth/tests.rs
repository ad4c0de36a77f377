use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn caller_of(keys: &ApiKeys, header: &'static str, value: &'static str) -> Option<Caller> {
    let headers = HeaderMap::from_iter([(header.parse().unwrap(), value.parse().unwrap())]);
    Gate::new(keys.clone(), 0).caller(&headers, PEER).ok()
}

fn tenant_of(keys: &ApiKeys, header: &'static str, value: &'static str) -> Option<String> {
    caller_of(keys, header, value).map(|caller| caller.tenant.to_string())
}

#[test]
fn a_key_opens_its_tenant_by_either_header_and_no_other_does() {
    let keys: ApiKeys = " alpha:t1 ,be:ta:t2,, gamma:t1".parse().unwrap();
    assert_eq!(tenant_of(&keys, "x-api-key", "alpha").as_deref(), Some("t1"));
    assert_eq!(tenant_of(&keys, "x-api-key", "be:ta").as_deref(), Some("t2"));
    assert_eq!(tenant_of(&keys, "x-api-key", "gamma").as_deref(), Some("t1"));
    assert_eq!(tenant_of(&keys, "authorization", "Bearer alpha").as_deref(), Some("t1"));
    assert_eq!(tenant_of(&keys, "authorization", "bearer alpha").as_deref(), Some("t1"));
    for wrong in ["", "alph", "alphaa", "alpha:t1", "beta", "ALPHA"] {
        assert_eq!(tenant_of(&keys, "x-api-key", wrong), None, "{wrong:?}");
    }
    assert_eq!(tenant_of(&keys, "authorization", "Basic alpha"), None);
    assert_eq!(tenant_of(&keys, "authorization", "Bear"), None);
    for keys in [keys, ApiKeys::default()] {
        assert_eq!(Gate::new(keys, 0).caller(&HeaderMap::new(), PEER).unwrap_err().status(), 401);
    }
}

#[test]
fn a_wrong_list_is_refused_by_position_and_never_repeats_a_key() {
    for wrong in ["secret", "a:t,secret", "a:t,secret:../up", "a:t,secret:Upper", "a:t,secret:", "secret:t,secret:u"] {
        let problem = wrong.parse::<ApiKeys>().unwrap_err();
        assert!(problem.starts_with("entry "), "{problem}");
        assert!(!problem.contains("secret"), "{problem}");
    }
    assert!("tenant-1:sEcReT".parse::<ApiKeys>().is_err_and(|problem| !problem.contains("sEcReT")));
    assert!(":tenant".parse::<ApiKeys>().is_err());
    assert!("".parse::<ApiKeys>().unwrap().is_empty());
    assert!(!format!("{:?}", "secret:t".parse::<ApiKeys>().unwrap()).contains("secret"));
}

#[test]
fn keys_that_are_replaced_are_good_no_more_and_the_new_ones_are() {
    let headers = |key: &'static str| HeaderMap::from_iter([("x-api-key".parse().unwrap(), key.parse().unwrap())]);
    let gate = Gate::new("old:t".parse().unwrap(), 0);
    assert!(gate.caller(&headers("old"), PEER).is_ok());
    gate.replace("new:t".parse().unwrap());
    assert_eq!(gate.caller(&headers("old"), PEER).unwrap_err().status(), 401);
    assert!(gate.caller(&headers("new"), PEER).is_ok());
}

#[test]
fn a_role_allows_what_those_before_it_do() {
    let roles = [Role::Reader, Role::Writer, Role::Admin];
    for (at, role) in roles.into_iter().enumerate() {
        let caller = Caller { tenant: TenantId::new("t").unwrap(), role };
        for (needed_at, needed) in roles.into_iter().enumerate() {
            assert_eq!(caller.check(needed).is_ok(), needed_at <= at);
            assert!(caller.check(needed).is_ok_and(|()| true) || caller.check(needed).unwrap_err().status() == 403);
        }
    }
}
