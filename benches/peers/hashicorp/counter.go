package main

import (
	"encoding/binary"
	"io"
	"sort"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// counter is a state machine that counts its commands, a batch at a time.
type counter struct{ count uint64 }

func (c *counter) commands() uint64 { return atomic.LoadUint64(&c.count) }

func (c *counter) Apply(*raft.Log) interface{} {
	return atomic.AddUint64(&c.count, 1)
}

func (c *counter) ApplyBatch(entries []*raft.Log) []interface{} {
	answers := make([]interface{}, len(entries))
	for nth, entry := range entries {
		if entry.Type == raft.LogCommand {
			answers[nth] = c.Apply(entry)
		}
	}
	return answers
}

func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return frozen(c.commands()), nil }

func (c *counter) Restore(from io.ReadCloser) error {
	defer from.Close()
	var count uint64
	err := binary.Read(from, binary.LittleEndian, &count)
	atomic.StoreUint64(&c.count, count)
	return err
}

type frozen uint64

func (f frozen) Persist(sink raft.SnapshotSink) error {
	if err := binary.Write(sink, binary.LittleEndian, uint64(f)); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

func (f frozen) Release() {}

// quantiles sorts the times and gives the median and the 99th percentile; zero of none.
func quantiles(times []time.Duration) (p50, p99 time.Duration) {
	if len(times) == 0 {
		return 0, 0
	}
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	return times[len(times)/2], times[len(times)*99/100]
}
