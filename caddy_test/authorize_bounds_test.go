package caddy_test

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAStormOfLandingsLeavesNothingBehind lands 500 times with what is none: the
// storage, the memory and the provider know nothing of it.
func TestAStormOfLandingsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	folder := newSharedFolder(t)
	a := newConsent(t, nil)
	a.globals = folder.option()
	a.start()
	begun := a.begin()
	a.land("?code=x&state=y") // what is made once is made
	entries, goroutines, memory := len(folder.entries(t)), a.c.Goroutines(), residentKiB(t, a.c.PID())
	var storm sync.WaitGroup
	for worker := range 10 {
		storm.Go(func() {
			for i := range 50 {
				params := fmt.Sprintf("?code=bogus-code-%d-%d&state=bogus-state-%d-%d&iss=x&error_description=%s", worker, i, worker, i, strings.Repeat("a", 4000))
				if got := a.land(params); got.status != http.StatusBadRequest && got.status != http.StatusTooManyRequests {
					t.Errorf("answered %d %.200s", got.status, got.body)
				}
			}
		})
	}
	storm.Wait()
	if now := len(folder.entries(t)); now > entries {
		t.Errorf("the storage has %d entries, and had %d before", now, entries)
	}
	a.c.Eventually(30*time.Second, "the goroutines end", func() bool { return a.c.Goroutines() <= goroutines+10 })
	if now := residentKiB(t, a.c.PID()); now > memory+200<<10 {
		t.Errorf("it takes %d KiB, and took %d before", now, memory)
	}
	a.assertAsked("after a storm", 0)
	a.assertLanded(a.land(a.agree(begun)))
	a.assertServes("after a storm")
}

// residentKiB is how much memory a process has.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAuthorizationsThatNobodyFinishesAreBounded begins a thousand: the storage
// does not grow with them, and the newest one can be finished.
func TestAuthorizationsThatNobodyFinishesAreBounded(t *testing.T) {
	t.Parallel()
	const most = 200 // entries
	folder := newSharedFolder(t)
	a := newConsent(t, nil)
	a.globals = folder.option()
	a.start()
	entries := len(folder.entries(t))
	var last consentRequest
	for i := range 1000 {
		got, begun := a.tryToBegin()
		switch got.status {
		case http.StatusOK:
			last = begun
		case http.StatusTooManyRequests, http.StatusConflict, http.StatusServiceUnavailable:
		default:
			t.Fatalf("begun %d times: %d %s", i, got.status, got.body)
		}
	}
	if now := len(folder.entries(t)) - entries; now > most {
		t.Errorf("there are %d entries more than before", now)
	}
	a.assertLanded(a.land(a.agree(last)))
	a.assertServes("in the end")
}

// TestDeviceAuthorizationsThatNobodyFinishesAreBounded begins many: one of a
// source polls, or few do, and no more often than the provider allows.
func TestDeviceAuthorizationsThatNobodyFinishesAreBounded(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil)
	a.grant = "device_code"
	a.start()
	goroutines := a.c.Goroutines()
	var last consentRequest
	for range 100 {
		if got, begun := a.tryToBegin(); got.status == http.StatusOK {
			last = begun
		}
	}
	a.c.Eventually(30*time.Second, "those that were forgotten have ended", func() bool { return a.c.Goroutines() < goroutines+80 })
	before, began := a.p.Count(), time.Now()
	a.c.Eventually(30*time.Second, "it polls", a.asked(before+1))
	time.Sleep(5 * time.Second)
	if rate := float64(a.p.Count()-before) / time.Since(began).Seconds(); rate > 20 {
		t.Errorf("it polls %.0f times in a second", rate)
	}
	a.p.Approve(last.UserCode)
	a.c.Eventually(40*time.Second, "the newest one is granted", a.isIn(last.ID, "granted"))
	a.assertServes("in the end")
}
