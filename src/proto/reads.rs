//! What the requests and answers of reads have in common, for both sides of the edge.

use prost::{Message, Name};

use super::*;

/// A request that says what its answer is to reflect.
pub trait ReadRequest: Message + Name + Clone + Default + 'static {
    /// Its answer.
    type Answer: ReadAnswer;

    /// What the answer reflects.
    fn read(&mut self) -> &mut Option<ReadOptions>;
}

/// An answer that says which entry it reflects.
pub trait ReadAnswer: Message + Default + 'static {
    /// The entry.
    fn at(&mut self) -> &mut Option<ReadAt>;
}

/// A request for a page of a list.
pub trait ListRequest: ReadRequest<Answer: ListAnswer> {
    /// Which page.
    fn page(&mut self) -> &mut Option<PageRequest>;
}

/// A page of a list.
pub trait ListAnswer: ReadAnswer {
    /// What to ask the next page with; empty: this was the last.
    fn next_page_token(&mut self) -> &mut String;

    /// Takes the records of the next page, too.
    fn append(&mut self, next: Self);
}

macro_rules! reads {
    ($($request:ident => $answer:ident;)*) => {$(
        impl ReadRequest for $request {
            type Answer = $answer;

            fn read(&mut self) -> &mut Option<ReadOptions> {
                &mut self.read
            }
        }

        impl ReadAnswer for $answer {
            fn at(&mut self) -> &mut Option<ReadAt> {
                &mut self.at
            }
        }
    )*};
}

macro_rules! lists {
    ($($request:ident => $answer:ident: $($records:ident),+;)*) => {
        reads! { $($request => $answer;)* }
        $(
            impl ListRequest for $request {
                fn page(&mut self) -> &mut Option<PageRequest> {
                    &mut self.page
                }
            }

            impl ListAnswer for $answer {
                fn next_page_token(&mut self) -> &mut String {
                    &mut self.next_page_token
                }

                fn append(&mut self, mut next: Self) {
                    $(self.$records.append(&mut next.$records);)+
                    self.next_page_token = next.next_page_token;
                }
            }
        )*
    };
}

reads! {
    GetServiceRequest => GetServiceResponse;
    GetPipelineRequest => GetPipelineResponse;
    GetSidecarRequest => GetSidecarResponse;
    GetGroupRequest => GetGroupResponse;
    PartitionOwnerRequest => PartitionOwnerResponse;
    GetServiceCheckpointRequest => GetServiceCheckpointResponse;
}

lists! {
    ListServicesRequest => ListServicesResponse: services;
    ListPipelinesRequest => ListPipelinesResponse: pipelines;
    ListSidecarsRequest => ListSidecarsResponse: sidecars;
    GetAssignmentsRequest => GetAssignmentsResponse: assignments;
    LocateServiceRequest => LocateServiceResponse: locations;
    ListGroupsRequest => ListGroupsResponse: groups;
    GetSourceOffsetsRequest => GetSourceOffsetsResponse: offsets;
    GetGroupOffsetsRequest => GetGroupOffsetsResponse: offsets;
    GetWatermarksRequest => GetWatermarksResponse: watermarks;
    GetPipelineCheckpointsRequest => GetPipelineCheckpointsResponse:
        checkpoints, source_offsets, watermarks;
}
