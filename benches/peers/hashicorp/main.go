// Three hashicorp/raft nodes in one process over TCP on the loopback, with closed-loop clients beside
// the leader: the other clusters' benchmark starts it and tells it, a line each, when to run.
//
//	stdin:  run LEAD_MS SPAN_MS   stdout: ANSWERS P50_NS P99_NS
//	stdin:  finish                stdout: verified COMMANDS
//
// `ready` is the first line that it says. It ends when stdin does, and with an error whenever
// something is not as it should be.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
)

const (
	nodes   = 3
	payload = 128
	// Entries in an append, to the log and to a follower: its default of 64 makes many small syncs of
	// many clients.
	maxAppendEntries = 1024
	// Entries that are read from memory on their way to a follower, as Consul has it.
	cachedEntries = 512
	patience      = 30 * time.Second
)

type store interface {
	raft.LogStore
	raft.StableStore
}

// open makes the log of one node: in `folder`, synced, or in memory where there is none.
func open(folder string, node int) (raft.LogStore, raft.StableStore, error) {
	if folder == "" {
		kept := raft.NewInmemStore()
		return kept, kept, nil
	}
	var kept store
	kept, err := raftboltdb.NewBoltStore(filepath.Join(folder, fmt.Sprintf("node-%d.db", node)))
	if err != nil {
		return nil, nil, err
	}
	cached, err := raft.NewLogCache(cachedEntries, kept)
	return cached, kept, err
}

type cluster struct {
	rafts    []*raft.Raft
	machines []*counter
	leader   *raft.Raft
}

func start(folder string) (*cluster, error) {
	made := &cluster{}
	quiet := hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	var members raft.Configuration
	var transports []*raft.NetworkTransport
	for node := 0; node < nodes; node++ {
		transport, err := raft.NewTCPTransportWithLogger("127.0.0.1:0", nil, 3, 10*time.Second, quiet)
		if err != nil {
			return nil, err
		}
		transports = append(transports, transport)
		id := raft.ServerID(strconv.Itoa(node))
		members.Servers = append(members.Servers, raft.Server{ID: id, Address: transport.LocalAddr()})
	}
	for node, transport := range transports {
		config := raft.DefaultConfig()
		config.LocalID = members.Servers[node].ID
		config.Logger = quiet
		config.MaxAppendEntries = maxAppendEntries
		logs, stable, err := open(folder, node)
		if err != nil {
			return nil, err
		}
		snapshots := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(config, logs, stable, snapshots, transport, members); err != nil {
			return nil, err
		}
		machine := &counter{}
		started, err := raft.NewRaft(config, machine, logs, stable, snapshots, transport)
		if err != nil {
			return nil, err
		}
		made.rafts = append(made.rafts, started)
		made.machines = append(made.machines, machine)
	}
	return made, made.await("a leader", func() bool {
		for _, node := range made.rafts {
			if node.State() == raft.Leader && node.VerifyLeader().Error() == nil {
				made.leader = node
			}
		}
		return made.leader != nil
	})
}

// await returns once `done` is true, or an error when it takes too long.
func (c *cluster) await(what string, done func() bool) error {
	for begun := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > patience {
			return fmt.Errorf("no %s within %v", what, patience)
		}
	}
	return nil
}

// run lets each client propose until the span is over, and gives the times of all answers and how many
// of them came within the span.
func (c *cluster) run(clients int, lead, span time.Duration) (all int, within []time.Duration, failed error) {
	var lock sync.Mutex
	var ended sync.WaitGroup
	from := time.Now().Add(lead)
	until := from.Add(span)
	for client := 0; client < clients; client++ {
		ended.Add(1)
		go func() {
			defer ended.Done()
			answers, times := 0, []time.Duration(nil)
			command := make([]byte, payload)
			var err error
			for begun := time.Now(); err == nil && begun.Before(until); {
				err = c.leader.Apply(command, 0).Error()
				now := time.Now()
				answers++
				if now.After(from) && now.Before(until) {
					times = append(times, now.Sub(begun))
				}
				begun = now
			}
			lock.Lock()
			defer lock.Unlock()
			all += answers
			within = append(within, times...)
			if err != nil {
				failed = err
			}
		}()
	}
	ended.Wait()
	return all, within, failed
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: hashicorp CLIENTS FOLDER (empty: in memory)")
	}
	clients, err := strconv.Atoi(os.Args[1])
	must(err)
	made, err := start(os.Args[2])
	must(err)
	fmt.Println("ready")
	answered := 0
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var lead, span int64
		if lines.Text() == "finish" {
			// Every node has applied what was answered, and nothing else.
			must(made.await("node with everything that was answered", func() bool {
				behind := false
				for _, machine := range made.machines {
					behind = behind || machine.commands() != uint64(answered)
				}
				return !behind
			}))
			fmt.Println("verified", answered)
		} else if _, err := fmt.Sscanf(lines.Text(), "run %d %d", &lead, &span); err != nil {
			log.Fatalf("%q: %v", lines.Text(), err)
		} else {
			all, times, err := made.run(clients, time.Duration(lead)*time.Millisecond, time.Duration(span)*time.Millisecond)
			must(err)
			answered += all
			p50, p99 := quantiles(times)
			fmt.Println(len(times), p50.Nanoseconds(), p99.Nanoseconds())
		}
	}
}
