# make WORD, with one of the words below; make alone prints them.

.PHONY: help fmt lint test race fuzz bench endings ci

help: # print these words
	@sed -n 's/^\([a-z]*\):.*# /\1	/p' Makefile

fmt: # format all Go files
	gofmt -w .

lint: # go vet, and staticcheck at the version in tools.mod
	go vet ./...
	go tool -modfile=tools.mod staticcheck ./...

test: # all tests
	go test ./...

race: # all tests with the race detector
	go test -race ./...

fuzz: # fuzz each target for FUZZTIME (30s if it is not set)
	FUZZTIME=$${FUZZTIME:-30s} bash .ci/run fuzz

bench: # all benchmarks
	go test -run '^$$' -bench . -benchmem ./...

endings: # act every way a client goes away, and check what the server says
	go run ./examples/endings

ci: # all that is checked before a merge, on what is committed
	bash .ci/run
