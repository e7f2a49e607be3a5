//! Messages of H.245 (ITU-T), as far as they say where media go: fields in their order, with the names of the
//! recommendation. What is for other than packet networks (H.222, H.223, V.76) is not read.

use super::per::Role::{AckStack, Channel, LanStack, Media, Stack, T120};
use super::per::Type::{
    Bits, Choice, Either, Int, List, Named, Null, Octets, Place, Plain, Rest, Seq, Text,
};
use super::per::{ANY, OID, REST, Size, Type, opt, req};

/// Q2931Address
static Q2931_ADDRESS: Type = Seq(
    &[
        req(&Choice(
            &[
                req(&Text(4, Size(1, 16))), // internationalNumber
                req(&Octets(Size(1, 20))),  // nsapAddress
            ],
            &[],
        )), // address
        opt(&Octets(Size(1, 20))), // subaddress
    ],
    &[],
);
/// UnicastAddress
static UNICAST_ADDRESS: Type = Choice(
    &[
        req(&Seq(&[req(&Place(4))], &[])), // iPAddress
        req(&Seq(
            &[
                req(&Octets(Size(6, 6))), // node
                req(&Octets(Size(4, 4))), // netnum
                req(&Octets(Size(2, 2))), // tsapIdentifier
            ],
            &[],
        )), // iPXAddress
        req(&Seq(&[req(&Place(16))], &[])), // iP6Address
        req(&Octets(Size(16, 16))),        // netBios
        req(&Seq(
            &[
                req(&Bits(1)),                         // routing
                req(&Octets(Size(4, 4))),              // network
                req(&Int(65536)),                      // tsapIdentifier
                req(&List(&req(&Octets(Size(4, 4))))), // route
            ],
            &[],
        )), // iPSourceRouteAddress
    ],
    &[],
);
/// MulticastAddress: nobody's own.
static MULTICAST_ADDRESS: Type = Choice(
    &[
        req(&Seq(&[req(&Octets(Size(6, 6)))], &[])), // iPAddress
        req(&Seq(&[req(&Octets(Size(18, 18)))], &[])), // iP6Address
    ],
    &[],
);
/// TransportAddress
static TRANSPORT_ADDRESS: Type = Choice(
    &[
        req(&UNICAST_ADDRESS),   // unicastAddress
        req(&MULTICAST_ADDRESS), // multicastAddress
    ],
    &[],
);
/// NetworkAccessParameters
static NETWORK_ACCESS_PARAMETERS: Type = Seq(
    &[
        opt(&Named(2)), // distribution
        req(&Choice(
            &[
                req(&Q2931_ADDRESS),         // q2931Address
                req(&Text(4, Size(1, 128))), // e164Address
                req(&TRANSPORT_ADDRESS),     // localAreaAddress
            ],
            &[],
        )), // networkAddress
        req(&Bits(1)),  // associateConference
        opt(&Octets(Size(1, 255))), // externalReference
    ],
    &[],
);
/// NonStandardIdentifier
static NON_STANDARD_IDENTIFIER: Type = Either(&[
    req(&OID), // object
    req(&Plain(&[
        req(&Int(256)),   // t35CountryCode
        req(&Int(256)),   // t35Extension
        req(&Int(65536)), // manufacturerCode
    ])), // h221NonStandard
]);
/// NonStandardParameter
static NON_STANDARD_PARAMETER: Type = Plain(&[
    req(&NON_STANDARD_IDENTIFIER), // nonStandardIdentifier
    req(&Octets(ANY)),             // data
]);
/// H261VideoCapability
static H261_VIDEO_CAPABILITY: Type = Seq(
    &[
        opt(&Int(4)),     // qcifMPI
        opt(&Int(4)),     // cifMPI
        req(&Bits(1)),    // temporalSpatialTradeOffCapability
        req(&Int(19200)), // maxBitRate
        req(&Bits(1)),    // stillImageTransmission
    ],
    &[],
);
/// H262VideoCapability
static H262_VIDEO_CAPABILITY: Type = Plain(&[
    req(&Bits(11)),        // profileAndLevel-SPatML to profileAndLevel-HPatHL
    opt(&Int(1073741824)), // videoBitRate
    opt(&Int(262144)),     // vbvBufferSize
    opt(&Int(16384)),      // samplesPerLine
    opt(&Int(16384)),      // linesPerFrame
    opt(&Int(16)),         // framesPerSecond
    opt(&Int(4294967296)), // luminanceSampleRate
    req(&Bits(1)),         // videoBadMBsCap
]);
/// H263VideoCapability
static H263_VIDEO_CAPABILITY: Type = Seq(
    &[
        opt(&Int(32)),     // sqcifMPI
        opt(&Int(32)),     // qcifMPI
        opt(&Int(32)),     // cifMPI
        opt(&Int(32)),     // cif4MPI
        opt(&Int(32)),     // cif16MPI
        req(&Int(192400)), // maxBitRate
        req(&Bits(5)),     // unrestrictedVector to temporalSpatialTradeOffCapability
        opt(&Int(524288)), // hrd-B
        opt(&Int(65536)),  // bppMaxKb
    ],
    &[],
);
/// IS11172VideoCapability
static IS11172_VIDEO_CAPABILITY: Type = Seq(
    &[
        req(&Bits(1)),         // constrainedBitstream
        opt(&Int(1073741824)), // videoBitRate
        opt(&Int(262144)),     // vbvBufferSize
        opt(&Int(16384)),      // samplesPerLine
        opt(&Int(16384)),      // linesPerFrame
        opt(&Int(16)),         // pictureRate
        opt(&Int(4294967296)), // luminanceSampleRate
    ],
    &[],
);
/// VideoCapability
static VIDEO_CAPABILITY: Type = Choice(
    &[
        req(&NON_STANDARD_PARAMETER),   // nonStandard
        req(&H261_VIDEO_CAPABILITY),    // h261VideoCapability
        req(&H262_VIDEO_CAPABILITY),    // h262VideoCapability
        req(&H263_VIDEO_CAPABILITY),    // h263VideoCapability
        req(&IS11172_VIDEO_CAPABILITY), // is11172VideoCapability
    ],
    &[],
);
/// IS11172AudioCapability
static IS11172_AUDIO_CAPABILITY: Type = Seq(
    &[
        req(&Bits(8)),  // audioLayer1 to twoChannels
        req(&Int(448)), // bitRate
    ],
    &[],
);
/// IS13818AudioCapability
static IS13818_AUDIO_CAPABILITY: Type = Seq(
    &[
        req(&Bits(20)),  // audioLayer1 to multilingual
        req(&Int(1130)), // bitRate
    ],
    &[],
);
/// AudioCapability
static AUDIO_CAPABILITY: Type = Choice(
    &[
        req(&NON_STANDARD_PARAMETER), // nonStandard
        req(&Int(256)),               // g711Alaw64k
        req(&Int(256)),               // g711Alaw56k
        req(&Int(256)),               // g711Ulaw64k
        req(&Int(256)),               // g711Ulaw56k
        req(&Int(256)),               // g722-64k
        req(&Int(256)),               // g722-56k
        req(&Int(256)),               // g722-48k
        req(&Plain(&[
            req(&Int(256)), // maxAl-sduAudioFrames
            req(&Bits(1)),  // silenceSuppression
        ])), // g7231
        req(&Int(256)),               // g728
        req(&Int(256)),               // g729
        req(&Int(256)),               // g729AnnexA
        req(&IS11172_AUDIO_CAPABILITY), // is11172AudioCapability
        req(&IS13818_AUDIO_CAPABILITY), // is13818AudioCapability
    ],
    &[],
);
/// DataProtocolCapability
static DATA_PROTOCOL_CAPABILITY: Type = Choice(
    &[
        req(&NON_STANDARD_PARAMETER), // nonStandard
        req(&Null),                   // v14buffered
        req(&Null),                   // v42lapm
        req(&Null),                   // hdlcFrameTunnelling
        req(&Null),                   // h310SeparateVCStack
        req(&Null),                   // h310SingleVCStack
        req(&Null),                   // transparent
    ],
    &[
        REST,                      // segmentationAndReassembly
        REST,                      // hdlcFrameTunnelingwSAR
        REST,                      // v120
        req(&Null).role(LanStack), // separateLANStack
    ],
);
/// T84Profile
static T84_PROFILE: Type = Either(&[
    req(&Null), // t84Unrestricted
    req(&Seq(
        &[
            req(&Bits(19)), // qcif to digPhotoHighProg
        ],
        &[],
    )), // t84Restricted
]);
/// DataApplicationCapability
static DATA_APPLICATION_CAPABILITY: Type = Seq(
    &[
        req(&Choice(
            &[
                req(&NON_STANDARD_PARAMETER),              // nonStandard
                req(&DATA_PROTOCOL_CAPABILITY).role(T120), // t120
                req(&DATA_PROTOCOL_CAPABILITY),            // dsm-cc
                req(&DATA_PROTOCOL_CAPABILITY),            // userData
                req(&Plain(&[
                    req(&DATA_PROTOCOL_CAPABILITY), // t84Protocol
                    req(&T84_PROFILE),              // t84Profile
                ])), // t84
                req(&DATA_PROTOCOL_CAPABILITY),            // t434
                req(&DATA_PROTOCOL_CAPABILITY),            // h224
                req(&Plain(&[
                    req(&DATA_PROTOCOL_CAPABILITY), // nlpidProtocol
                    req(&Octets(ANY)),              // nlpidData
                ])), // nlpid
                req(&Null),                                // dsvdControl
                req(&DATA_PROTOCOL_CAPABILITY),            // h222DataPartitioning
            ],
            &[],
        )), // application
        req(&Int(4294967296)), // maxBitRate
    ],
    &[],
);
/// EncryptionMode
static ENCRYPTION_MODE: Type = Choice(
    &[
        req(&NON_STANDARD_PARAMETER), // nonStandard
        req(&Null),                   // h233Encryption
    ],
    &[],
);
/// DataType
static DATA_TYPE: Type = Choice(
    &[
        req(&NON_STANDARD_PARAMETER),      // nonStandard
        req(&Null),                        // nullData
        req(&VIDEO_CAPABILITY),            // videoData
        req(&AUDIO_CAPABILITY),            // audioData
        req(&DATA_APPLICATION_CAPABILITY), // data
        req(&ENCRYPTION_MODE),             // encryptionData
    ],
    &[],
);
/// TerminalLabel
static TERMINAL_LABEL: Type = Seq(
    &[
        req(&Int(193)), // mcuNumber
        req(&Int(193)), // terminalNumber
    ],
    &[],
);
/// H2250LogicalChannelParameters
static H2250_LOGICAL_CHANNEL_PARAMETERS: Type = Seq(
    &[
        opt(&List(&req(&NON_STANDARD_PARAMETER))), // nonStandard
        req(&Int(256)),                            // sessionID
        opt(&Int(255)),                            // associatedSessionID
        opt(&TRANSPORT_ADDRESS).role(Media),       // mediaChannel
        opt(&Bits(1)),                             // mediaGuaranteedDelivery
        opt(&TRANSPORT_ADDRESS).role(Media),       // mediaControlChannel
        opt(&Bits(1)),                             // mediaControlGuaranteedDelivery
        opt(&Bits(1)),                             // silenceSuppression
        opt(&TERMINAL_LABEL),                      // destination
        opt(&Int(32)),                             // dynamicRTPPayloadType
        opt(&Named(1)),                            // mediaPacketization
    ],
    &[],
);
/// OpenLogicalChannel
pub(super) static CHANNEL: Type = Seq(
    &[
        req(&Int(65535)), // forwardLogicalChannelNumber
        req(&Seq(
            &[
                opt(&Int(65536)), // portNumber
                req(&DATA_TYPE),  // dataType
                req(&Choice(
                    &[
                        req(&Rest), // h222LogicalChannelParameters
                        req(&Rest), // h223LogicalChannelParameters
                        req(&Rest), // v76LogicalChannelParameters
                    ],
                    &[
                        req(&H2250_LOGICAL_CHANNEL_PARAMETERS), // h2250LogicalChannelParameters
                    ],
                )), // multiplexParameters
            ],
            &[],
        )), // forwardLogicalChannelParameters
        opt(&Seq(
            &[
                req(&DATA_TYPE), // dataType
                opt(&Choice(
                    &[
                        req(&Rest), // h223LogicalChannelParameters
                        req(&Rest), // v76LogicalChannelParameters
                    ],
                    &[
                        req(&H2250_LOGICAL_CHANNEL_PARAMETERS), // h2250LogicalChannelParameters
                    ],
                )), // multiplexParameters
            ],
            &[],
        )), // reverseLogicalChannelParameters
    ],
    &[
        req(&NETWORK_ACCESS_PARAMETERS).role(Stack), // separateStack
    ],
);
/// RequestMessage
static REQUEST_MESSAGE: Type = Choice(
    &[
        REST,                        // nonStandard
        REST,                        // masterSlaveDetermination
        REST,                        // terminalCapabilitySet
        req(&CHANNEL).role(Channel), // openLogicalChannel
        REST,                        // closeLogicalChannel
        REST,                        // requestChannelClose
        REST,                        // multiplexEntrySend
        REST,                        // requestMultiplexEntry
        REST,                        // requestMode
        REST,                        // roundTripDelayRequest
        REST,                        // maintenanceLoopRequest
    ],
    &[],
);
/// H2250LogicalChannelAckParameters
static H2250_LOGICAL_CHANNEL_ACK_PARAMETERS: Type = Seq(
    &[
        opt(&List(&req(&NON_STANDARD_PARAMETER))), // nonStandard
        opt(&Int(255)),                            // sessionID
        opt(&TRANSPORT_ADDRESS).role(Media),       // mediaChannel
        opt(&TRANSPORT_ADDRESS).role(Media),       // mediaControlChannel
        opt(&Int(32)),                             // dynamicRTPPayloadType
    ],
    &[],
);
/// OpenLogicalChannelAck
static CHANNEL_ACK: Type = Seq(
    &[
        req(&Int(65535)), // forwardLogicalChannelNumber
        opt(&Seq(
            &[
                req(&Int(65535)), // reverseLogicalChannelNumber
                opt(&Int(65536)), // portNumber
                opt(&Choice(
                    &[
                        req(&Rest), // h222LogicalChannelParameters
                    ],
                    &[
                        req(&H2250_LOGICAL_CHANNEL_PARAMETERS), // h2250LogicalChannelParameters
                    ],
                )), // multiplexParameters
            ],
            &[],
        )), // reverseLogicalChannelParameters
    ],
    &[
        req(&NETWORK_ACCESS_PARAMETERS).role(AckStack), // separateStack
        req(&Choice(
            &[
                req(&H2250_LOGICAL_CHANNEL_ACK_PARAMETERS), // h2250LogicalChannelAckParameters
            ],
            &[],
        )), // forwardMultiplexAckParameters
    ],
);
/// ResponseMessage
static RESPONSE_MESSAGE: Type = Choice(
    &[
        REST,              // nonStandard
        REST,              // masterSlaveDeterminationAck
        REST,              // masterSlaveDeterminationReject
        REST,              // terminalCapabilitySetAck
        REST,              // terminalCapabilitySetReject
        req(&CHANNEL_ACK), // openLogicalChannelAck
        REST,              // openLogicalChannelReject
        REST,              // closeLogicalChannelAck
        REST,              // requestChannelCloseAck
        REST,              // requestChannelCloseReject
        REST,              // multiplexEntrySendAck
        REST,              // multiplexEntrySendReject
        REST,              // requestMultiplexEntryAck
        REST,              // requestMultiplexEntryReject
        REST,              // requestModeAck
        REST,              // requestModeReject
        REST,              // roundTripDelayResponse
        REST,              // maintenanceLoopAck
        REST,              // maintenanceLoopReject
    ],
    &[],
);
/// MultimediaSystemControlMessage
pub(super) static MESSAGE: Type = Choice(
    &[
        req(&REQUEST_MESSAGE),  // request
        req(&RESPONSE_MESSAGE), // response
        REST,                   // command
        REST,                   // indication
    ],
    &[],
);
