package tokensource

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// deviceCode is RFC 8628: a person says yes on whatever device has a browser,
// and types a short code there.
var deviceCode = Grant{
	Needs:     []string{"client_id"},
	Takes:     slices.Concat(clientOptions, endpointOptions, scopeOptions, []string{"device_url"}),
	Refreshes: true,
	Person:    true,
}

// deviceGrantType is the name of the grant on the wire.
const deviceGrantType = "urn:ietf:params:oauth:grant-type:device_code"

const (
	// defaultInterval is RFC 8628, section 3.2's.
	defaultInterval = 5 * time.Second
	maxInterval     = time.Minute

	defaultDeviceLifetime = 10 * time.Minute
	maxDeviceLifetime     = 30 * time.Minute
)

// DeviceAuthorization is what a person is told (RFC 8628, section 3.2). It can be
// encoded as JSON, and holds a secret, the device code.
type DeviceAuthorization struct {
	DeviceCode              string        `json:"device_code"`
	UserCode                string        `json:"user_code"`
	VerificationURI         string        `json:"verification_uri"`
	VerificationURIComplete string        `json:"verification_uri_complete,omitempty"`
	ExpiresIn               time.Duration `json:"expires_in"`
	Interval                time.Duration `json:"interval"`
}

// AuthorizeDevice begins an authorization by device. The error is an *Error.
func (s *Source) AuthorizeDevice(ctx context.Context) (*DeviceAuthorization, error) {
	var d *DeviceAuthorization
	_, err := s.request(ctx, &call{
		purpose:  forDevice,
		previous: new(Token),
		read: func(resp *http.Response) (problem *Error) {
			d, problem = s.readDevice(resp)
			return problem
		},
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (s *Source) readDevice(resp *http.Response) (*DeviceAuthorization, *Error) {
	doc, problem := s.config.Response.document(resp)
	if problem != nil {
		return nil, problem
	}
	d := &DeviceAuthorization{
		DeviceCode:              doc.top.text("device_code"),
		UserCode:                doc.top.text("user_code"),
		VerificationURI:         doc.top.text("verification_uri"),
		VerificationURIComplete: doc.top.text("verification_uri_complete"),
		ExpiresIn:               lasting(doc.top.get("expires_in"), time.Second),
		Interval:                lasting(doc.top.get("interval"), time.Second),
	}
	if d.VerificationURI == "" {
		d.VerificationURI = doc.top.text("verification_url") // Google
	}
	if d.ExpiresIn == 0 {
		d.ExpiresIn = defaultDeviceLifetime
	}
	d.ExpiresIn = min(d.ExpiresIn, maxDeviceLifetime)
	if d.Interval == 0 {
		d.Interval = defaultInterval
	}
	d.Interval = min(d.Interval, maxInterval)
	switch {
	case d.DeviceCode == "", d.UserCode == "", d.VerificationURI == "":
		return nil, &Error{Reason: "the answer holds no device_code, user_code or verification_uri", StatusCode: resp.StatusCode}
	case !isForPeople(d.VerificationURI), d.VerificationURIComplete != "" && !isForPeople(d.VerificationURIComplete),
		len(d.UserCode) > maxCode, strings.ContainsFunc(d.UserCode, isUnshowable):
		return nil, &Error{Reason: "the answer's user_code or verification_uri is not one that could be shown", StatusCode: resp.StatusCode}
	}
	return d, nil
}

// isForPeople says whether an address can be opened in a browser.
func isForPeople(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" &&
		!strings.ContainsFunc(address, cannotStandInURL) && !strings.ContainsFunc(address, isUnshowable)
}

// ExchangeDevice asks once whether the person has said yes. The error is an
// *Error; its Code is authorization_pending or slow_down where it is to be asked
// again (RFC 8628, section 3.5), and it is transient where that may help.
func (s *Source) ExchangeDevice(ctx context.Context, d *DeviceAuthorization) (*Token, error) {
	v := url.Values{"grant_type": {deviceGrantType}, "device_code": {d.DeviceCode}}
	token, err := s.request(ctx, &call{values: v, secrets: []string{d.DeviceCode}, previous: new(Token)})
	if err != nil {
		switch err.Code {
		case "access_denied", "expired_token", "invalid_grant":
			err.Permanent, err.AuthorizationRequired = true, true
		}
	}
	return s.outcome(token, err)
}
