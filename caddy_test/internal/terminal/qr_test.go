package terminal

import (
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// draw writes a QR code with half blocks or with two whole ones for each
// module, as ink on paper or the other way round.
func draw(t *testing.T, text string, half, inverted bool) string {
	t.Helper()
	m, err := qrcode.NewQRCodeWriter().Encode(text, gozxing.BarcodeFormat_QR_CODE, 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	ink := func(x, y int) bool { return (y < m.GetHeight() && m.Get(x, y)) != inverted }
	var out strings.Builder
	for y := 0; y < m.GetHeight(); y++ {
		for x := range m.GetWidth() {
			switch {
			case !half:
				out.WriteString(map[bool]string{true: "██", false: "  "}[ink(x, y)])
			default:
				out.WriteString(map[[2]bool]string{{true, true}: "█", {true, false}: "▀", {false, true}: "▄", {false, false}: " "}[[2]bool{ink(x, y), ink(x, y+1)}])
			}
		}
		if half {
			y++
		}
		out.WriteString("\n")
	}
	return out.String()
}

func TestAPhoneReadsTheScreen(t *testing.T) {
	const text = "http://127.0.0.1:12345/verify?user_code=ABCD-EFGH"
	for _, half := range []bool{true, false} {
		for _, inverted := range []bool{true, false} {
			screen := "Open this address\n\n" + draw(t, text, half, inverted) + "\nWaiting\n"
			if got, err := ReadQRCode(screen); err != nil || got != text {
				t.Errorf("half blocks %v, inverted %v: %q, %v", half, inverted, got, err)
			}
		}
	}
	if _, err := ReadQRCode("no\ncode\n█\n"); err == nil {
		t.Error("a screen without a QR code has one")
	}
}
