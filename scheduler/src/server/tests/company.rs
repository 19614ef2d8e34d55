//! What clients expect beside the scheduler: health, and the little of etcd.

use skerry_proto::etcdserverpb::cluster_client::ClusterClient;
use skerry_proto::etcdserverpb::kv_client::KvClient;
use skerry_proto::etcdserverpb::{MemberListRequest, RangeRequest};
use skerry_proto::health::HealthCheckRequest;
use skerry_proto::health::health_check_response::ServingStatus;
use skerry_proto::health::health_client::HealthClient;
use skerry_proto::pdpb::GetMembersRequest;
use tonic::Code;

use super::harness::Served;

#[tokio::test(flavor = "multi_thread")]
async fn a_transactional_client_finds_the_member_and_an_etcd_without_keys() {
    let served = Served::start().await;
    let member = served.client().await.get_members(GetMembersRequest::default()).await;
    let member = member.expect("a member").into_inner().leader.expect("it leads");
    let mut etcd = ClusterClient::connect(served.url()).await.expect("connect");
    let listed = etcd.member_list(MemberListRequest { linearizable: true }).await.expect("a list");
    let listed = listed.into_inner();
    let [one] = &listed.members[..] else { panic!("{listed:?}") };
    assert_eq!((one.id, &one.name), (member.member_id, &member.name));
    assert_eq!(one.client_ur_ls, member.client_urls, "clients go there from now on");
    let header = listed.header.expect("always");
    assert_eq!((header.cluster_id, header.member_id), (served.cluster_id, member.member_id));

    let mut etcd = KvClient::connect(served.url()).await.expect("connect");
    let key = "/tidb/store/gcworker/saved_safe_point".into();
    let found = etcd.range(RangeRequest { key, ..RangeRequest::default() }).await.expect("nothing");
    let found = found.into_inner();
    assert_eq!((found.count, found.more), (0, false));
    assert_eq!(found.header.expect("always").cluster_id, served.cluster_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_serves_says_so() {
    let served = Served::start().await;
    let mut probe = HealthClient::connect(served.url()).await.expect("connect");
    for service in ["", "pdpb.PD"] {
        let service = service.to_string();
        let health = probe.check(HealthCheckRequest { service }).await.expect("an answer");
        assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    }
    let service = "no.such.Service".to_string();
    let unknown = probe.check(HealthCheckRequest { service }).await.expect_err("it is not here");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_scheduler_hears_the_present_at_once_and_that_it_stops() {
    let served = Served::start().await;
    let mut probe = HealthClient::connect(served.url()).await.expect("connect");
    let watch = HealthCheckRequest { service: "pdpb.PD".to_string() };
    let mut watched = probe.watch(watch).await.expect("a stream").into_inner();
    let now = watched.message().await.expect("it is open").expect("the present");
    assert_eq!(now.status(), ServingStatus::Serving);
    let watch = HealthCheckRequest { service: "no.such.Service".to_string() };
    let mut unknown = probe.watch(watch).await.expect("a stream").into_inner();
    let now = unknown.message().await.expect("it is open").expect("the present");
    assert_eq!(now.status(), ServingStatus::ServiceUnknown);

    served.stop().await.expect("no stop waits for those who watch");
    let then = watched.message().await.expect("it is open").expect("a change");
    assert_eq!(then.status(), ServingStatus::NotServing);
    assert_eq!(watched.message().await.expect("it ends well"), None);
    assert_eq!(unknown.message().await.expect("it ends well"), None, "that does not change");
}
