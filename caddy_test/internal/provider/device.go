package provider

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

const (
	devicePath  = "/device"
	verifyPath  = "/verify"
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

	// early is how much less than the interval may lie between two polls when
	// they arrive: the one before may have been on its way for longer.
	early = 100 * time.Millisecond
)

type decision string

const (
	undecided decision = "authorization_pending"
	approved  decision = ""
	denied    decision = "access_denied"
	spent     decision = "invalid_grant"
)

// device is a device authorization (RFC 8628). Provider.mu guards it.
type device struct {
	code, user string
	expires    time.Time
	interval   time.Duration
	decided    decision
	family     *family
	polls      []DevicePoll
}

// DevicePoll is a token request with a device code.
type DevicePoll struct {
	At       time.Time
	Answer   string        // an OAuth error code, or "" for a token
	Interval time.Duration // that had to pass since the poll before
}

// DeviceURL is the address of the device authorization endpoint.
func (p *Provider) DeviceURL() string { return p.URL + devicePath }

// UserCodes returns the codes of all device authorizations that were begun.
func (p *Provider) UserCodes() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.devices {
		all = append(all, d.user)
	}
	return all
}

// Polls returns the polls for a user code so far.
func (p *Provider) Polls(userCode string) (polls []DevicePoll) {
	p.device(userCode, func(d *device) { polls = slices.Clone(d.polls) })
	return polls
}

// Approve agrees to the device authorization with a user code.
func (p *Provider) Approve(userCode string) {
	p.device(userCode, func(d *device) { d.decided = approved })
}

// Deny denies the device authorization with a user code.
func (p *Provider) Deny(userCode string) {
	p.device(userCode, func(d *device) { d.decided = denied })
}

// Expire ends the device authorization with a user code.
func (p *Provider) Expire(userCode string) {
	p.device(userCode, func(d *device) { d.expires = time.Now() })
}

func (p *Provider) device(userCode string, do func(*device)) {
	p.tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.devices, func(d *device) bool { return d.user == userCode })
	if i < 0 {
		p.tb.Errorf("the provider has issued no user code %q", userCode)
		return
	}
	do(p.devices[i])
}

// ServeDevice is the device authorization endpoint.
func (p *Provider) ServeDevice(w http.ResponseWriter, r *http.Request) {
	request, err := readTokenRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if code := p.client(request); code != "" {
		p.refuse(w, code)
		return
	}
	if request.Form.Get("client_id") != ClientID && !request.Basic {
		p.refuse(w, p.Violate("a device authorization request without client_id"))
		return
	}
	lifetime, interval := p.person.DeviceLifetime, p.person.DeviceInterval
	if lifetime == 0 {
		lifetime = 10 * time.Minute
	}
	if interval == 0 {
		interval = 1
	}
	scope := request.Form.Get("scope")
	if p.person.Scope != "" {
		scope = p.person.Scope
	}
	text := rand.Text()
	d := &device{code: "device-" + rand.Text(), user: text[:4] + "-" + text[4:8], decided: undecided,
		expires: time.Now().Add(lifetime), interval: time.Duration(interval) * time.Second, family: &family{scope: scope}}
	answer := map[string]any{"device_code": d.code, "user_code": d.user, "verification_uri": p.URL + verifyPath, "expires_in": int(lifetime.Seconds())}
	if !p.person.NoCompleteURI {
		answer["verification_uri_complete"] = p.URL + verifyPath + "?" + url.Values{"user_code": {d.user}}.Encode()
	}
	if interval > 0 {
		answer["interval"] = interval
	} else {
		d.interval = 5 * time.Second
	}
	p.devices = append(p.devices, d)
	writeJSON(w, answer)
}

// ServeVerify is the page where a person, who is logged in, agrees by coming
// with a user code.
func (p *Provider) ServeVerify(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.devices {
		if d.user == r.URL.Query().Get("user_code") && d.decided == undecided && time.Now().Before(d.expires) {
			d.decided = approved
			fmt.Fprintln(w, "Your device is connected.")
			return
		}
	}
	http.Error(w, "There is no such code.", http.StatusNotFound)
}

// Poll answers a token request with a device code (RFC 8628, section 3.5), and
// counts a poll that comes too early as a violation. For Authorize.
func (p *Provider) Poll(r *TokenRequest) (refused string) {
	i := slices.IndexFunc(p.devices, func(d *device) bool { return d.code == r.Form.Get("device_code") })
	if i < 0 {
		return "invalid_grant"
	}
	d := p.devices[i]
	defer func() { d.polls = append(d.polls, DevicePoll{r.At, refused, d.interval}) }()
	if n := len(d.polls); n > 0 && r.At.Sub(d.polls[n-1].At) < d.interval-early {
		p.Violate("a poll %v after the last, where the interval is %v", r.At.Sub(d.polls[n-1].At), d.interval)
		return p.slowDown(d)
	}
	if p.person.SlowDown > 0 {
		p.person.SlowDown--
		return p.slowDown(d)
	}
	if time.Now().After(d.expires) {
		return "expired_token"
	}
	if d.decided == approved {
		p.family, d.decided = d.family, spent
		return ""
	}
	return string(d.decided)
}

func (p *Provider) slowDown(d *device) string {
	d.interval += 5 * time.Second
	return "slow_down"
}
