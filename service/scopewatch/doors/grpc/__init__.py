"""The gRPC floor: protobuf messages and status codes are known here and nowhere below."""
