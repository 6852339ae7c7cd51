import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import org.apache.avro.Conversions;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;
import org.apache.avro.data.TimeConversions;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;

/**
 * What Avro's Java library says: one JSON object a line in, one out.
 *
 * {"writer": schema, "reader": schema, "data": [hex, ...]} gives {"compatible": bool, "data": ["=hex", "!reason" or "?reason", ...]}:
 * each datum as the writer wrote it, read as the reader sees it, with the values of logical types, and written again by the
 * reader's schema; "?" where it was read and could not be written again (Java takes the first decimal of a union). Without
 * "reader" it is the writer's. {"error": reason} where a schema is refused.
 */
public final class Judge {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final HexFormat HEX = HexFormat.of();

  public static void main(String[] arguments) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      out.println(JSON.writeValueAsString(judged(JSON.readTree(line))));
      out.flush();
    }
  }

  private static ObjectNode judged(JsonNode asked) {
    ObjectNode said = JSON.createObjectNode();
    try {
      Schema writer = parsed(asked.get("writer"));
      Schema reader = asked.has("reader") ? parsed(asked.get("reader")) : writer;
      said.put("compatible", SchemaCompatibility.checkReaderWriterCompatibility(reader, writer).getType()
          == SchemaCompatibility.SchemaCompatibilityType.COMPATIBLE);
      ArrayNode data = said.putArray("data");
      for (JsonNode datum : asked.withArray("data")) {
        data.add(read(writer, reader, HEX.parseHex(datum.asText())));
      }
    } catch (Exception | StackOverflowError error) {
      said.removeAll();
      said.put("error", words(error));
    }
    return said;
  }

  private static Schema parsed(JsonNode schema) {
    return new Schema.Parser().parse(schema.isTextual() ? schema.asText() : schema.toString());
  }

  private static String read(Schema writer, Schema reader, byte[] datum) {
    boolean isRead = false;
    try {
      GenericData data = data();
      BinaryDecoder decoder = DecoderFactory.get().binaryDecoder(datum, null);
      Object value = new GenericDatumReader<Object>(writer, reader, data).read(null, decoder);
      if (!decoder.isEnd()) {
        return "!bytes left over";
      }
      isRead = true;
      ByteArrayOutputStream written = new ByteArrayOutputStream();
      BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(written, null);
      new GenericDatumWriter<Object>(reader, data).write(value, encoder);
      encoder.flush();
      return "=" + HEX.formatHex(written.toByteArray());
    } catch (Exception | OutOfMemoryError | StackOverflowError error) {
      return (isRead ? "?" : "!") + words(error);
    }
  }

  private static GenericData data() {
    GenericData data = new GenericData();
    data.addLogicalTypeConversion(new Conversions.DecimalConversion());
    data.addLogicalTypeConversion(new Conversions.UUIDConversion());
    data.addLogicalTypeConversion(new TimeConversions.DateConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimeMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimeMicrosConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimestampMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimestampMicrosConversion());
    data.addLogicalTypeConversion(new TimeConversions.LocalTimestampMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.LocalTimestampMicrosConversion());
    return data;
  }

  private static String words(Throwable error) {
    String text = error.getClass().getSimpleName() + ": " + error.getMessage();
    return text.length() > 160 ? text.substring(0, 160) : text;
  }
}
