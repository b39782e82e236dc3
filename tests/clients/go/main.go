// Search asks a finemesh and prints what it answers: a client of finemesh.search.v1, generated from proto/.
package main

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	search "finemesh.example/search/generated/finemesh/search/v1"
)

// Added to the budget for the deadline: the mesh answers within the budget with what it has, a silent one is left.
const grace = 500 * time.Millisecond

// An overloaded mesh says in grpc-retry-pushback-ms when to try again, or never; gRPC obeys, within the deadline.
const retryOnce = `{
	"methodConfig": [{
		"name": [{"service": "finemesh.search.v1.SearchService"}],
		"retryPolicy": {
			"maxAttempts": 2,
			"initialBackoff": "0.1s",
			"maxBackoff": "1s",
			"backoffMultiplier": 2,
			"retryableStatusCodes": ["RESOURCE_EXHAUSTED"]
		}
	}]
}`

type arguments struct {
	address, ca, collection, query, pipeline string
	budgetMs                                 uint
	stream                                   bool
}

func main() {
	arguments := readArguments()
	if err := run(arguments); err != nil {
		status := status.Convert(err)
		fmt.Fprintf(os.Stderr, "%s: %s: %s\n", arguments.address, status.Code(), status.Message())
		os.Exit(1)
	}
}

func readArguments() (read arguments) {
	flag.StringVar(&read.address, "address", "", "`host:port` of the mesh")
	flag.StringVar(&read.ca, "ca", "", "`file` with the authority for TLS; without it: plaintext")
	flag.StringVar(&read.collection, "collection", "", "collection to search")
	flag.StringVar(&read.query, "query", "", "what to search for")
	flag.StringVar(&read.pipeline, "pipeline", "", "pipeline to search with (default: the mesh's own)")
	flag.UintVar(&read.budgetMs, "budget-ms", 2000, "milliseconds for the answer")
	flag.BoolVar(&read.stream, "stream", false, "print answers as they become better")
	flag.Parse()
	if read.address == "" || read.collection == "" || read.query == "" {
		fmt.Fprintln(os.Stderr, "--address, --collection and --query are needed; an API key is taken from FINEMESH_API_KEY")
		flag.Usage()
		os.Exit(2)
	}
	return read
}

func run(arguments arguments) error {
	transport, err := transportOf(arguments.ca)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(
		arguments.address, grpc.WithTransportCredentials(transport), grpc.WithDefaultServiceConfig(retryOnce))
	if err != nil {
		return err
	}
	defer connection.Close()

	timeout := time.Duration(arguments.budgetMs)*time.Millisecond + grace
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if key := os.Getenv("FINEMESH_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	budgetMs := uint32(arguments.budgetMs)
	request := &search.SearchRequest{
		Collection: arguments.collection,
		Query:      arguments.query,
		Pipeline:   arguments.pipeline,
		BudgetMs:   &budgetMs,
	}
	mesh := search.NewSearchServiceClient(connection)
	if arguments.stream {
		return printStream(ctx, mesh, request)
	}
	answer, err := mesh.Search(ctx, request)
	if err != nil {
		return err
	}
	printAnswer("answer", answer)
	return nil
}

func transportOf(ca string) (credentials.TransportCredentials, error) {
	if ca == "" {
		return insecure.NewCredentials(), nil
	}
	return credentials.NewClientTLSFromFile(ca, "")
}

func printStream(ctx context.Context, mesh search.SearchServiceClient, request *search.SearchRequest) error {
	messages, err := mesh.SearchStream(ctx, request)
	if err != nil {
		return err
	}
	for {
		message, err := messages.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		header := "so far"
		if message.IsLast {
			header = "answer"
		}
		printAnswer(header, message.Answer)
	}
}

func printAnswer(header string, answer *search.SearchResponse) {
	fmt.Println(header)
	for place, hit := range answer.Hits {
		line := fmt.Sprintf("  %d. %.4f  %s  %s", place+1, hit.Score, hit.Id, hit.Title)
		fmt.Println(strings.TrimRight(line, " "))
	}
	for _, report := range answer.Stages {
		fmt.Printf("  %s: %s\n", report.Stage, outcome(report))
	}
	if answer.Degraded {
		fmt.Println("  degraded: stages did less than they were asked to")
	}
}

func outcome(report *search.StageReport) string {
	outcome := word(report.Status, "STAGE_STATUS_")
	if report.Reason == search.StageReason_STAGE_REASON_UNSPECIFIED {
		return outcome
	}
	return fmt.Sprintf("%s (%s)", outcome, word(report.Reason, "STAGE_REASON_"))
}

func word(value fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}
