//! Messages of H.225.0 (ITU-T, version 4 and later), as far as they say where calls go: fields in their order, with
//! the names of the recommendation.

use super::h245;
use super::per::Role::{
    Admitted, Alternative, Answers, Callee, Caller, Calls, Channel, Forwarded, Gatekeeper, H245,
    Life, Listens, Located, Question, Ras, Registered, Registration, Signal, Tunnelled,
    Unregistration,
};
use super::per::Type::{
    Bits, Choice, Int, List, Named, Null, Octets, Open, Place, Plain, Rest, Seq, Text,
};
use super::per::{ANY, OID, REST, Size, Type, opt, req};

/// H221NonStandard
static H221_NON_STANDARD: Type = Seq(
    &[
        req(&Int(256)),   // t35CountryCode
        req(&Int(256)),   // t35Extension
        req(&Int(65536)), // manufacturerCode
    ],
    &[],
);
/// NonStandardIdentifier
static NON_STANDARD_IDENTIFIER: Type = Choice(
    &[
        req(&OID),               // object
        req(&H221_NON_STANDARD), // h221NonStandard
    ],
    &[],
);
/// NonStandardParameter
static NON_STANDARD_PARAMETER: Type = Plain(&[
    req(&NON_STANDARD_IDENTIFIER), // nonStandardIdentifier
    req(&Octets(ANY)),             // data
]);
/// A sequence with nothing in it but nonStandardData.
static BARE: Type = Seq(
    &[
        opt(&NON_STANDARD_PARAMETER), // nonStandardData
    ],
    &[],
);
/// TransportAddress
static TRANSPORT_ADDRESS: Type = Choice(
    &[
        req(&Place(4)), // ipAddress
        req(&Seq(
            &[
                req(&Octets(Size(4, 4))),              // ip
                req(&Int(65536)),                      // port
                req(&List(&req(&Octets(Size(4, 4))))), // route
                req(&Named(2)),                        // routing
            ],
            &[],
        )), // ipSourceRoute
        req(&Plain(&[
            req(&Octets(Size(6, 6))), // node
            req(&Octets(Size(4, 4))), // netnum
            req(&Octets(Size(2, 2))), // port
        ])), // ipxAddress
        req(&Seq(&[req(&Place(16))], &[])), // ip6Address
        req(&Octets(Size(16, 16))), // netBios
        req(&Octets(Size(1, 20))), // nsap
        req(&NON_STANDARD_PARAMETER), // nonStandardAddress
    ],
    &[],
);
/// GatekeeperRequest
static GATEKEEPER_REQUEST: Type = Seq(
    &[
        req(&Int(65535)),                  // requestSeqNum
        req(&OID),                         // protocolIdentifier
        opt(&NON_STANDARD_PARAMETER),      // nonStandardData
        req(&TRANSPORT_ADDRESS).role(Ras), // rasAddress
        req(&Rest),                        // endpointType
        opt(&Rest),                        // gatekeeperIdentifier
        opt(&Rest),                        // callServices
        opt(&Rest),                        // endpointAlias
    ],
    &[],
);
/// GatekeeperConfirm
static GATEKEEPER_CONFIRM: Type = Seq(
    &[
        req(&Int(65535)),                         // requestSeqNum
        req(&OID),                                // protocolIdentifier
        opt(&NON_STANDARD_PARAMETER),             // nonStandardData
        opt(&Text(16, Size(1, 128))),             // gatekeeperIdentifier
        req(&TRANSPORT_ADDRESS).role(Gatekeeper), // rasAddress
    ],
    &[],
);
static TRANSPORT_ADDRESSES: Type = List(&req(&TRANSPORT_ADDRESS));
/// VendorIdentifier
static VENDOR_IDENTIFIER: Type = Seq(
    &[
        req(&H221_NON_STANDARD),    // vendor
        opt(&Octets(Size(1, 256))), // productId
        opt(&Octets(Size(1, 256))), // versionId
    ],
    &[],
);
/// SupportedProtocols
static SUPPORTED_PROTOCOLS: Type = Choice(
    &[
        req(&NON_STANDARD_PARAMETER), // nonStandardData
        req(&BARE),                   // h310
        req(&BARE),                   // h320
        req(&BARE),                   // h321
        req(&BARE),                   // h322
        req(&BARE),                   // h323
        req(&BARE),                   // h324
        req(&BARE),                   // voice
        req(&BARE),                   // t120-only
    ],
    &[],
);
/// GatewayInfo
static GATEWAY_INFO: Type = Seq(
    &[
        opt(&List(&req(&SUPPORTED_PROTOCOLS))), // protocol
        opt(&NON_STANDARD_PARAMETER),           // nonStandardData
    ],
    &[],
);
/// EndpointType
static ENDPOINT_TYPE: Type = Seq(
    &[
        opt(&NON_STANDARD_PARAMETER), // nonStandardData
        opt(&VENDOR_IDENTIFIER),      // vendor
        opt(&BARE),                   // gatekeeper
        opt(&GATEWAY_INFO),           // gateway
        opt(&BARE),                   // mcu
        opt(&BARE),                   // terminal
        req(&Bits(2)),                // mc to undefinedNode
    ],
    &[],
);
/// AliasAddress
static ALIAS_ADDRESS: Type = Choice(
    &[
        req(&Text(4, Size(1, 128))),  // dialledDigits
        req(&Text(16, Size(1, 256))), // h323-ID
    ],
    &[],
);
static ALIAS_ADDRESSES: Type = List(&req(&ALIAS_ADDRESS));
/// RegistrationRequest
static REGISTRATION_REQUEST: Type = Seq(
    &[
        req(&Int(65535)),                        // requestSeqNum
        req(&OID),                               // protocolIdentifier
        opt(&NON_STANDARD_PARAMETER),            // nonStandardData
        req(&Bits(1)),                           // discoveryComplete
        req(&TRANSPORT_ADDRESSES).role(Listens), // callSignalAddress
        req(&TRANSPORT_ADDRESSES).role(Ras),     // rasAddress
        req(&ENDPOINT_TYPE),                     // terminalType
        opt(&ALIAS_ADDRESSES),                   // terminalAlias
        opt(&Text(16, Size(1, 128))),            // gatekeeperIdentifier
        req(&VENDOR_IDENTIFIER),                 // endpointVendor
    ],
    &[
        REST,                             // alternateEndpoints
        req(&Int(4294967295)).role(Life), // timeToLive
    ],
);
/// RegistrationConfirm
static REGISTRATION_CONFIRM: Type = Seq(
    &[
        req(&Int(65535)),                       // requestSeqNum
        req(&OID),                              // protocolIdentifier
        opt(&NON_STANDARD_PARAMETER),           // nonStandardData
        req(&TRANSPORT_ADDRESSES).role(Signal), // callSignalAddress
        opt(&ALIAS_ADDRESSES),                  // terminalAlias
        opt(&Text(16, Size(1, 128))),           // gatekeeperIdentifier
        req(&Text(16, Size(1, 128))),           // endpointIdentifier
    ],
    &[
        REST,                             // alternateGatekeeper
        req(&Int(4294967295)).role(Life), // timeToLive
    ],
);
/// UnregistrationRequest
static UNREGISTRATION_REQUEST: Type = Seq(
    &[
        req(&Int(65535)),                       // requestSeqNum
        req(&TRANSPORT_ADDRESSES).role(Signal), // callSignalAddress
        opt(&Rest),                             // endpointAlias
        opt(&Rest),                             // nonStandardData
        opt(&Rest),                             // endpointIdentifier
    ],
    &[],
);
/// CallType
static CALL_TYPE: Type = Named(4);
/// CallModel
static CALL_MODEL: Type = Named(2);
/// AdmissionRequest
static ADMISSION_REQUEST: Type = Seq(
    &[
        req(&Int(65535)),                      // requestSeqNum
        req(&CALL_TYPE),                       // callType
        opt(&CALL_MODEL),                      // callModel
        req(&Text(16, Size(1, 128))),          // endpointIdentifier
        opt(&ALIAS_ADDRESSES),                 // destinationInfo
        opt(&TRANSPORT_ADDRESS).role(Answers), // destCallSignalAddress
        opt(&ALIAS_ADDRESSES),                 // destExtraCallInfo
        req(&ALIAS_ADDRESSES),                 // srcInfo
        opt(&TRANSPORT_ADDRESS).role(Calls),   // srcCallSignalAddress
        req(&Rest),                            // bandWidth
        opt(&Rest),                            // nonStandardData
        opt(&Rest),                            // callServices
    ],
    &[],
);
/// AdmissionConfirm
static ADMISSION_CONFIRM: Type = Seq(
    &[
        req(&Int(65535)),                       // requestSeqNum
        req(&Int(4294967296)),                  // bandWidth
        req(&CALL_MODEL),                       // callModel
        req(&TRANSPORT_ADDRESS).role(Admitted), // destCallSignalAddress
        opt(&Rest),                             // irrFrequency
        opt(&Rest),                             // nonStandardData
    ],
    &[],
);
/// LocationRequest
static LOCATION_REQUEST: Type = Seq(
    &[
        req(&Int(65535)),                  // requestSeqNum
        opt(&Text(16, Size(1, 128))),      // endpointIdentifier
        req(&ALIAS_ADDRESSES),             // destinationInfo
        opt(&NON_STANDARD_PARAMETER),      // nonStandardData
        req(&TRANSPORT_ADDRESS).role(Ras), // replyAddress
    ],
    &[],
);
/// LocationConfirm
static LOCATION_CONFIRM: Type = Seq(
    &[
        req(&Int(65535)),                      // requestSeqNum
        req(&TRANSPORT_ADDRESS).role(Located), // callSignalAddress
        req(&TRANSPORT_ADDRESS),               // rasAddress
        opt(&Rest),                            // nonStandardData
    ],
    &[],
);
/// InfoRequestResponse
static INFO_REQUEST_RESPONSE: Type = Seq(
    &[
        opt(&NON_STANDARD_PARAMETER),           // nonStandardData
        req(&Int(65535)),                       // requestSeqNum
        req(&ENDPOINT_TYPE),                    // endpointType
        req(&Text(16, Size(1, 128))),           // endpointIdentifier
        req(&TRANSPORT_ADDRESS).role(Ras),      // rasAddress
        req(&TRANSPORT_ADDRESSES).role(Signal), // callSignalAddress
        opt(&Rest),                             // endpointAlias
        opt(&Rest),                             // perCallInfo
    ],
    &[],
);
/// RasMessage
pub(super) static RAS_MESSAGE: Type = Choice(
    &[
        req(&GATEKEEPER_REQUEST).role(Question), // gatekeeperRequest
        req(&GATEKEEPER_CONFIRM),                // gatekeeperConfirm
        REST,                                    // gatekeeperReject
        req(&REGISTRATION_REQUEST).role(Registration), // registrationRequest
        req(&REGISTRATION_CONFIRM).role(Registered), // registrationConfirm
        REST,                                    // registrationReject
        req(&UNREGISTRATION_REQUEST).role(Unregistration), // unregistrationRequest
        REST,                                    // unregistrationConfirm
        REST,                                    // unregistrationReject
        req(&ADMISSION_REQUEST).role(Question),  // admissionRequest
        req(&ADMISSION_CONFIRM),                 // admissionConfirm
        REST,                                    // admissionReject
        REST,                                    // bandwidthRequest
        REST,                                    // bandwidthConfirm
        REST,                                    // bandwidthReject
        REST,                                    // disengageRequest
        REST,                                    // disengageConfirm
        REST,                                    // disengageReject
        req(&LOCATION_REQUEST).role(Question),   // locationRequest
        req(&LOCATION_CONFIRM),                  // locationConfirm
        REST,                                    // locationReject
        REST,                                    // infoRequest
        req(&INFO_REQUEST_RESPONSE),             // infoRequestResponse
        REST,                                    // nonStandardMessage
        REST,                                    // unknownMessageResponse
    ],
    &[],
);
/// CallIdentifier
static CALL_IDENTIFIER: Type = Seq(
    &[
        req(&Octets(Size(16, 16))), // guid
    ],
    &[],
);
/// Channels that are opened at once.
static FAST_START: Type = List(&req(&Open(&h245::CHANNEL)).role(Channel));
/// Progress-UUIE
static PROGRESS_UUIE: Type = Seq(
    &[
        req(&OID),                          // protocolIdentifier
        req(&ENDPOINT_TYPE),                // destinationInfo
        opt(&TRANSPORT_ADDRESS).role(H245), // h245Address
        req(&CALL_IDENTIFIER),              // callIdentifier
        opt(&Rest),                         // h245SecurityMode
        opt(&Rest),                         // tokens
        opt(&Rest),                         // cryptoTokens
        req(&FAST_START),                   // fastStart
    ],
    &[],
);
/// Q954Details
static Q954_DETAILS: Type = Seq(
    &[
        req(&Bits(2)), // conferenceCalling to threePartyService
    ],
    &[],
);
/// QseriesOptions
static QSERIES_OPTIONS: Type = Seq(
    &[
        req(&Bits(7)),      // q932Full to q957Full
        req(&Q954_DETAILS), // q954Info
    ],
    &[],
);
/// Setup-UUIE
static SETUP_UUIE: Type = Seq(
    &[
        req(&OID),                            // protocolIdentifier
        opt(&TRANSPORT_ADDRESS).role(H245),   // h245Address
        opt(&ALIAS_ADDRESSES),                // sourceAddress
        req(&ENDPOINT_TYPE),                  // sourceInfo
        opt(&ALIAS_ADDRESSES),                // destinationAddress
        opt(&TRANSPORT_ADDRESS).role(Callee), // destCallSignalAddress
        opt(&ALIAS_ADDRESSES),                // destExtraCallInfo
        opt(&List(&req(&Int(65536)))),        // destExtraCRV
        req(&Bits(1)),                        // activeMC
        req(&Octets(Size(16, 16))),           // conferenceID
        req(&Named(3)),                       // conferenceGoal
        opt(&QSERIES_OPTIONS),                // callServices
        req(&CALL_TYPE),                      // callType
    ],
    &[
        req(&TRANSPORT_ADDRESS).role(Caller), // sourceCallSignalAddress
        REST,                                 // remoteExtensionAddress
        REST,                                 // callIdentifier
        REST,                                 // h245SecurityCapability
        REST,                                 // tokens
        REST,                                 // cryptoTokens
        req(&FAST_START),                     // fastStart
    ],
);
/// CallProceeding-UUIE, Alerting-UUIE
static PROCEEDING_UUIE: Type = Seq(
    &[
        req(&OID),                          // protocolIdentifier
        req(&ENDPOINT_TYPE),                // destinationInfo
        opt(&TRANSPORT_ADDRESS).role(H245), // h245Address
    ],
    &[
        REST,             // callIdentifier
        REST,             // h245SecurityMode
        REST,             // tokens
        REST,             // cryptoTokens
        req(&FAST_START), // fastStart
    ],
);
/// Connect-UUIE
static CONNECT_UUIE: Type = Seq(
    &[
        req(&OID),                          // protocolIdentifier
        opt(&TRANSPORT_ADDRESS).role(H245), // h245Address
        req(&ENDPOINT_TYPE),                // destinationInfo
        req(&Octets(Size(16, 16))),         // conferenceID
    ],
    &[
        REST,             // callIdentifier
        REST,             // h245SecurityMode
        REST,             // tokens
        REST,             // cryptoTokens
        req(&FAST_START), // fastStart
    ],
);
/// Information-UUIE
static INFORMATION_UUIE: Type = Seq(
    &[
        req(&OID), // protocolIdentifier
    ],
    &[],
);
/// ReleaseCompleteReason
static RELEASE_COMPLETE_REASON: Type = Named(12);
/// ReleaseComplete-UUIE
static RELEASE_COMPLETE_UUIE: Type = Seq(
    &[
        req(&OID),                     // protocolIdentifier
        opt(&RELEASE_COMPLETE_REASON), // reason
    ],
    &[],
);
/// FacilityReason
static FACILITY_REASON: Type = Choice(
    &[
        req(&Null),                 // routeCallToGatekeeper
        req(&Null).role(Forwarded), // callForwarded
        req(&Null),                 // routeCallToMC
        req(&Null),                 // undefinedReason
    ],
    &[],
);
/// Facility-UUIE
static FACILITY_UUIE: Type = Seq(
    &[
        req(&OID),                                 // protocolIdentifier
        opt(&TRANSPORT_ADDRESS).role(Alternative), // alternativeAddress
        opt(&ALIAS_ADDRESSES),                     // alternativeAliasAddress
        opt(&Octets(Size(16, 16))),                // conferenceID
        req(&FACILITY_REASON),                     // reason
    ],
    &[
        REST,                               // callIdentifier
        REST,                               // destExtraCallInfo
        REST,                               // remoteExtensionAddress
        REST,                               // tokens
        REST,                               // cryptoTokens
        REST,                               // conferences
        req(&TRANSPORT_ADDRESS).role(H245), // h245Address
        req(&FAST_START),                   // fastStart
    ],
);
/// H323-UU-PDU
static H323_UU_PDU: Type = Seq(
    &[
        req(&Choice(
            &[
                req(&SETUP_UUIE),            // setup
                req(&PROCEEDING_UUIE),       // callProceeding
                req(&CONNECT_UUIE),          // connect
                req(&PROCEEDING_UUIE),       // alerting
                req(&INFORMATION_UUIE),      // information
                req(&RELEASE_COMPLETE_UUIE), // releaseComplete
                req(&FACILITY_UUIE),         // facility
            ],
            &[
                req(&PROGRESS_UUIE), // progress
            ],
        )), // h323-message-body
        opt(&NON_STANDARD_PARAMETER), // nonStandardData
    ],
    &[
        REST,                                                    // h4501SupplementaryService
        REST,                                                    // h245Tunnelling
        req(&List(&req(&Open(&h245::MESSAGE)).role(Tunnelled))), // h245Control
    ],
);
/// H323-UserInformation
pub(super) static USER_INFORMATION: Type = Seq(
    &[
        req(&H323_UU_PDU), // h323-uu-pdu
        opt(&Rest),        // user-data
    ],
    &[],
);
