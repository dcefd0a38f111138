package caddy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
	"github.com/caddytoken/inject-token/caddy_test/internal/terminal"
)

// awaitUserCode waits until the command has shown where to go and with which
// code, and returns the code.
func (d *desk) awaitUserCode(s *terminal.Session) (code string) {
	d.t.Helper()
	s.Await(d.provider.URL + "/verify")
	codes := d.provider.UserCodes()
	if len(codes) != 1 {
		d.t.Fatalf("the provider has issued %d user codes", len(codes))
	}
	harness.Eventually(d.t, 10*time.Second, "the code "+codes[0]+" stands on the screen, and not in the address alone", func() bool {
		return strings.Contains(strings.ReplaceAll(s.Screen(), "user_code="+codes[0], ""), codes[0])
	})
	return codes[0]
}

func TestADeviceIsConnectedWithAPhone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "device_code", "")
	d.assertNeedsPerson()
	s := d.terminal("authorize", "crm")
	user := d.awaitUserCode(s)
	d.caddy.Eventually(30*time.Second, "the provider is polled", func() bool { return len(d.provider.Polls(user)) > 0 })
	scanned, err := terminal.ReadQRCode(s.Screen())
	if err != nil || scanned != d.provider.URL+"/verify?user_code="+user {
		t.Fatalf("a phone reads %q from the screen: %v", scanned, err)
	}
	for line := range strings.SplitSeq(s.Screen(), "\n") {
		if n := len([]rune(line)); n > 100 && !strings.Contains(line, "://") {
			t.Errorf("a line of %d columns in a terminal of 100: %q", n, line)
		}
	}
	if s.Ended() {
		t.Error("the command has ended before the person agreed")
	}
	d.provider.Visit(scanned)
	assertEnd(t, s, 0, "Authorized: crm", "read", "write")
	d.assertServed()
	d.provider.AssertStrict()
}

func TestAScriptGetsNoQRCode(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "device_code", "")
	s := d.pipes("authorize", "crm")
	s.Close() // nothing is typed with this grant
	user := d.awaitUserCode(s)
	d.provider.Approve(user)
	assertEnd(t, s, 0, "Authorized: crm")
	if strings.ContainsAny(s.Raw(), "█▀▄\x1b") {
		t.Errorf("a QR code or control sequences in a pipe:\n%s", s.Raw())
	}
	d.assertServed()
}

func TestWithoutACompleteAddressTheCodeIsTyped(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "device_code", "")
	d.provider.Set(func(k *provider.Knobs) { k.NoCompleteURI = true })
	s := d.terminal("authorize", "crm")
	user := d.awaitUserCode(s)
	if strings.Contains(s.Screen(), "user_code=") {
		t.Errorf("it makes an address up:\n%s", s.Screen())
	}
	d.provider.Approve(user)
	assertEnd(t, s, 0, "Authorized: crm")
}

// TestTheProviderSaysHowOftenItIsAsked measures the polls where they arrive.
func TestTheProviderSaysHowOftenItIsAsked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		interval int // of the provider's answer; negative: none
		slowDown int
		want     []time.Duration // between the first polls
	}{
		{"every two seconds", 2, 0, []time.Duration{2 * time.Second, 2 * time.Second}},
		{"not said", -1, 0, []time.Duration{5 * time.Second}},
		{"slow_down twice", 1, 2, []time.Duration{6 * time.Second, 11 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, "device_code", "")
			d.provider.Set(func(k *provider.Knobs) { k.DeviceInterval, k.SlowDown = c.interval, c.slowDown })
			s := d.terminal("authorize", "crm")
			user := d.awaitUserCode(s)
			d.caddy.Eventually(time.Minute, "there are enough polls", func() bool { return len(d.provider.Polls(user)) > len(c.want) })
			d.provider.Approve(user)
			polls := d.provider.Polls(user)
			for i, want := range c.want {
				// The provider itself counts a poll that comes too early.
				if got := polls[i+1].At.Sub(polls[i].At); got > want+3*time.Second {
					t.Errorf("%v between two polls, want %v", got, want)
				}
				if polls[i+1].Interval < want {
					t.Errorf("the provider allows a poll after %v, the test expects %v", polls[i+1].Interval, want)
				}
			}
			assertEnd(t, s, 0, "Authorized: crm")
			d.provider.AssertStrict()
		})
	}
}

func TestADeviceThatIsNotConnectedIsSaidSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		happens func(p *provider.Provider, user string)
		words   string
	}{
		"denied":                  {(*provider.Provider).Deny, "access_denied"},
		"expired at the provider": {(*provider.Provider).Expire, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, "device_code", "")
			s := d.terminal("authorize", "crm")
			user := d.awaitUserCode(s)
			c.happens(d.provider, user)
			assertEnd(t, s, 4, c.words)
			d.assertNeedsPerson()
			polled := len(d.provider.Polls(user))
			time.Sleep(2 * time.Second) // the provider's interval is one
			if n := len(d.provider.Polls(user)); n != polled {
				t.Errorf("the provider is asked %d times more", n-polled)
			}
		})
	}
}

// TestACodeThatNobodyEntersExpires has a device code that lives three seconds.
func TestACodeThatNobodyEntersExpires(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "device_code", "")
	d.provider.Set(func(k *provider.Knobs) { k.DeviceLifetime = 3 * time.Second })
	began := time.Now()
	s := d.terminal("authorize", "crm")
	assertEnd(t, s, 5, "in time")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	// Once more is another code.
	d.provider.Set(func(k *provider.Knobs) { k.DeviceLifetime = 0 })
	s = d.terminal("authorize", "crm")
	s.Await(d.provider.URL + "/verify")
	codes := d.provider.UserCodes()
	d.provider.Approve(codes[len(codes)-1])
	assertEnd(t, s, 0, "Authorized: crm")
	d.assertServed()
}

func TestADeviceEndpointThatRefusesIsSaidSo(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "device_code", "")
	d.provider.Set(func(k *provider.Knobs) { k.Secret = "another" })
	s := d.terminal("authorize", "crm")
	assertEnd(t, s, 4, "invalid_client")
	d.assertNeedsPerson()
}
